"""The skeleton of a pose: COCO's seventeen points and the limbs between them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from brimful.pictures.palette import Colour
from brimful.vision.pixels import Pixels

VISIBLE = 0.5
"""Visibility from which on a point is drawn. One without a visibility is drawn unless it is (0, 0),
which is how data sets write a point that is not there."""

_HEAD, _LEFT, _RIGHT, _TRUNK = (60, 220, 255), (90, 200, 60), (255, 150, 60), (200, 120, 255)

# the limbs of COCO's person_keypoints annotations, by the side of the person
_LIMBS: tuple[tuple[int, int, Colour], ...] = (
    *((a, b, _HEAD) for a, b in ((0, 1), (0, 2), (1, 2), (1, 3), (2, 4), (3, 5), (4, 6))),
    *((a, b, _TRUNK) for a, b in ((5, 6), (5, 11), (6, 12), (11, 12))),
    *((a, b, _LEFT) for a, b in ((5, 7), (7, 9), (11, 13), (13, 15))),
    *((a, b, _RIGHT) for a, b in ((6, 8), (8, 10), (12, 14), (14, 16))),
)
_POINTS = 17
_SHIFT = 3  # OpenCV's fixed point: eighths of a pixel


def draw_skeleton(canvas: Pixels, points: NDArray[np.floating], colour: Colour, line: int) -> None:
    """Draw the points of one detection, and limbs where there are seventeen points.

    Args:
        canvas: The picture, which is drawn on.
        points: (points, 2 or 3), `x y [visibility]` in pixels.
        colour: Of points other than COCO's seventeen.
        line: Width of limbs in pixels.
    """
    shown = points[:, 2] >= VISIBLE if points.shape[1] == 3 else (points[:, :2] != 0).any(1)
    shown &= np.isfinite(points).all(1) & (np.abs(points[:, :2]) < 1 << 20).all(1)
    scaled = np.round(np.where(np.isfinite(points[:, :2]), points[:, :2], 0).clip(-1e6, 1e6) * 8)
    places = [(int(x), int(y)) for x, y in scaled]
    colours = [colour] * len(points)
    if len(points) == _POINTS:
        for a, b, limb in _LIMBS:
            colours[a] = colours[b] = limb
            if shown[a] and shown[b]:
                cv2.line(canvas, places[a], places[b], limb, line, cv2.LINE_AA, _SHIFT)
    for place, visible, fill in zip(places, shown, colours, strict=True):
        if visible:
            rim, radius = (line + 1) << _SHIFT, line << _SHIFT
            cv2.circle(canvas, place, rim, (255, 255, 255), -1, cv2.LINE_AA, _SHIFT)
            cv2.circle(canvas, place, radius, fill, -1, cv2.LINE_AA, _SHIFT)
