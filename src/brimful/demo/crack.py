"""Cracks: a jagged dark line across the face of a part, the defect that the model looks for."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]

_SHIFT = 4  # fractional bits of the coordinates that OpenCV draws with
_LONG, _WIDE = 30, 17  # least extent in pixels of a 480-line picture: longer and shorter side
_ATTEMPTS = 12


def across(face: NDArray[np.bool_], seed: int, scale: float) -> FloatImage | None:
    """Draw a crack that stays on a part.

    Args:
        face: bool (h, w), true where the part is and a crack would show.
        seed: Decides the crack's course.
        scale: Pixels that one pixel of a 480-line picture takes.

    Returns:
        float32 (h, w), 1 where the crack is, or None when the part has no room for one that is
        large enough to be seen.
    """
    rng = np.random.default_rng(seed)
    solid = np.asarray(cv2.erode(face.astype(np.uint8), np.ones((3, 3), np.uint8)), np.uint8)
    rows, columns = np.nonzero(solid)
    if len(rows) < 400 * scale * scale:
        return None
    for _ in range(_ATTEMPTS):
        start = int(rng.integers(len(rows)))
        origin = (float(columns[start]), float(rows[start]))
        heading = float(rng.uniform(0, 2 * math.pi))
        # from a point on the face both ways, as far as the part goes or the crack is long
        budget = float(rng.uniform(34, 84)) * scale
        forth = _walk(rng, solid, origin, heading, budget / 2, scale)
        back = _walk(rng, solid, origin, heading + math.pi, budget / 2, scale)
        line = np.array(back[:0:-1] + forth)
        if len(line) < 4:
            continue
        extent = np.ptp(line, axis=0)
        if extent.max() < _LONG * scale or extent.min() < _WIDE * scale:
            continue
        width = float(rng.uniform(2.4, 4.0)) * scale
        stroke = np.zeros(face.shape, np.uint8)
        _ribbon(stroke, line, width)
        if rng.random() < 0.6:
            joint = int(rng.integers(1, len(line) - 1))
            turned = heading + float(rng.choice([-1, 1])) * float(rng.uniform(0.6, 1.2))
            start_of_branch = (float(line[joint][0]), float(line[joint][1]))
            branch = _walk(rng, solid, start_of_branch, turned, budget / 3, scale)
            if len(branch) > 2:
                _ribbon(stroke, np.array(branch), width * 0.75)
        return np.asarray(stroke / np.float32(255), np.float32)
    return None


def engrave(face: FloatImage, stroke: FloatImage, light_angle: float) -> None:
    """Darken a face along a crack, in place, with a bright rim on the side away from the lamp."""
    rim = np.array(((1, 0, -math.cos(light_angle)), (0, 1, -math.sin(light_angle))), np.float64)
    bright = cv2.warpAffine(stroke, rim, stroke.shape[::-1])
    face += (np.minimum(face * 1.3 + 18, 255) - face) * (0.7 * bright)[..., None]
    face += (np.float32(10) - face) * (0.95 * stroke)[..., None]


def _walk(
    rng: np.random.Generator,
    solid: NDArray[np.uint8],
    origin: tuple[float, float],
    heading: float,
    budget: float,
    scale: float,
) -> list[tuple[float, float]]:
    """Go on in short zigzag steps until the part or the budget ends."""
    height, width = solid.shape
    points = [origin]
    x, y = origin
    side = float(rng.choice([-1, 1]))
    while budget > 0:
        step = float(rng.uniform(4, 8.5)) * scale
        turn = heading + side * float(rng.uniform(0.05, 0.85))
        side *= -1.0 if rng.random() < 0.8 else 1.0
        heading += float(rng.normal(0, 0.12))
        x, y = x + step * math.cos(turn), y + step * math.sin(turn)
        if not (0 <= x < width and 0 <= y < height and solid[int(y), int(x)]):
            break
        points.append((x, y))
        budget -= step
    return points


def _ribbon(stroke: NDArray[np.uint8], line: NDArray[np.float64], width: float) -> None:
    """Fill a line that is widest in the middle and thins out towards its ends."""
    along = np.gradient(line, axis=0)
    normal = np.column_stack((-along[:, 1], along[:, 0]))
    normal /= np.maximum(np.hypot(normal[:, 0], normal[:, 1]), 1e-6)[:, None]
    t = np.abs(np.linspace(-1, 1, len(line)))
    half = width / 2 * (1 - 0.55 * t**2)
    outline = np.concatenate((line + normal * half[:, None], (line - normal * half[:, None])[::-1]))
    polygon = np.round(outline * (1 << _SHIFT)).astype(np.int32)
    cv2.fillPoly(stroke, [polygon], 255, cv2.LINE_AA, _SHIFT)
