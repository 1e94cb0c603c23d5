"""Pictures with their detections drawn in, alone or as a contact sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.formats.rle import decode_rle
from brimful.spec import Size
from brimful.vision.geometry import Geometry
from brimful.vision.pixels import Pixels

Colour = tuple[int, int, int]

# BGR, far apart from each other and light or dark enough for text on them to be read
_PALETTE: tuple[Colour, ...] = (
    (255, 178, 29),
    (60, 220, 120),
    (40, 190, 255),
    (235, 90, 190),
    (230, 220, 50),
    (66, 66, 245),
    (120, 140, 255),
    (150, 255, 200),
    (255, 130, 110),
    (90, 150, 30),
    (180, 105, 255),
    (30, 120, 200),
)
_BACKGROUND = (28, 26, 24)
_GAP = 6
_KEYPOINT_CONFIDENCE = 0.5
# the limbs of COCO's seventeen points, from its person_keypoints annotations
_LIMBS = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7)),
    *((6, 8), (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)


def colour_of(class_id: int) -> Colour:
    """Return the colour of a class, BGR; it is the same in every picture."""
    return _PALETTE[class_id % len(_PALETTE)]


def draw(image: Pixels, detections: Detections) -> Pixels:
    """Return a copy of a picture with its detections drawn in.

    Args:
        image: uint8 (height, width, 3), BGR, the picture that the detections are of.
        detections: What was found in it, of any task.

    Raises:
        UsageError: The detections are of a picture of another size.
    """
    return _annotated(image, detections, (image.shape[0], image.shape[1]))


def contact_sheet(
    images: Sequence[tuple[Pixels, Detections]], *, columns: int = 3, cell: Size = (360, 480)
) -> Pixels:
    """Lay pictures with their detections side by side.

    Args:
        images: Pictures, uint8 (height, width, 3) BGR, each with what was found in it.
        columns: Pictures in a row.
        cell: (height, width) that each picture is fitted into, keeping its shape.

    Returns:
        uint8 (rows * cell height + gaps, columns * cell width + gaps, 3), BGR.

    Raises:
        UsageError: There is no picture, or an argument is out of its range.
    """
    if not images:
        raise UsageError("a contact sheet needs at least one picture")
    if columns < 1 or min(cell) < 32:
        raise UsageError(
            f"columns must be 1 or more and a cell at least 32 a side, got {columns}, {cell}"
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    shape = (rows * cell[0] + (rows + 1) * _GAP, columns * cell[1] + (columns + 1) * _GAP, 3)
    sheet = np.full(shape, _BACKGROUND, np.uint8)
    for position, (image, detections) in enumerate(images):
        row, column = divmod(position, columns)
        place = Geometry.fit((image.shape[0], image.shape[1]), cell)
        top = _GAP + row * (cell[0] + _GAP) + place.top
        left = _GAP + column * (cell[1] + _GAP) + place.left
        height, width = place.resized
        # annotated after resizing, so that labels are as legible in a small cell
        sheet[top : top + height, left : left + width] = _annotated(
            image, detections, place.resized
        )
    return sheet


def _annotated(image: Pixels, detections: Detections, size: Size) -> Pixels:
    height, width = image.shape[:2]
    if detections.error is None and (detections.height, detections.width) != (height, width):
        raise UsageError(
            f"the detections of {detections.image!r} are of a picture of "
            f"{detections.width}x{detections.height}, this one is {width}x{height}"
        )
    canvas = image.copy()
    if size != (height, width):
        shrinks = size[0] < height
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        canvas = np.asarray(cv2.resize(image, size[::-1], interpolation=method), np.uint8)
    painter = _Painter(canvas, (size[1] / width, size[0] / height))
    if detections.error is not None:
        painter.label(detections.error, (0.0, 0.0, 0.0, 0.0), _PALETTE[5])
    elif detections.probs is not None:
        best = int(detections.probs.argmax())
        text = f"{detections.names[best]} {detections.probs[best]:.2f}"
        painter.label(text, (0.0, 0.0, 0.0, 0.0), colour_of(best))
    else:
        _paint(painter, detections)
    return painter.canvas


def _paint(painter: _Painter, detections: Detections) -> None:
    """Masks below, then outlines, then labels; the best detection comes last, on top."""
    order = range(len(detections) - 1, -1, -1)
    colours = [colour_of(int(class_id)) for class_id in detections.class_id]
    if detections.masks is not None:
        for i in order:
            painter.mask(decode_rle(detections.masks[i]), colours[i])
    for i in order:
        if detections.obb is not None:
            painter.polygon(_corners(detections.obb[i]), colours[i])
        else:
            painter.box(detections.boxes[i], colours[i])
        if detections.keypoints is not None:
            painter.keypoints(detections.keypoints[i], colours[i])
    for i in reversed(order):
        name = detections.names[int(detections.class_id[i])]
        x1, y1, x2, y2 = (float(value) for value in detections.boxes[i])
        painter.label(f"{name} {detections.confidence[i]:.2f}", (x1, y1, x2, y2), colours[i])


def _corners(obb: NDArray[np.float32]) -> NDArray[np.float32]:
    cx, cy, w, h, angle = (float(value) for value in obb)
    c, s = math.cos(angle), math.sin(angle)
    along, across = np.array((c, s)) * w / 2, np.array((-s, c)) * h / 2
    middle = np.array((cx, cy))
    corners = (along + across, along - across, -along - across, across - along)
    return np.asarray([middle + corner for corner in corners], np.float32)


class _Painter:
    """Draws in image coordinates onto a canvas of another scale."""

    def __init__(self, canvas: Pixels, scale: tuple[float, float]) -> None:
        self.canvas = canvas
        self._scale = np.array(scale, np.float64)
        side = min(canvas.shape[:2])
        self._line = max(1, round(side / 320))
        self._font = max(0.36, side / 1100)
        self._taken: list[tuple[int, int, int, int]] = []

    def mask(self, mask: NDArray[np.uint8], colour: Colour) -> None:
        size = (self.canvas.shape[1], self.canvas.shape[0])
        inside = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR) > 0
        tint = self.canvas[inside] * 0.55 + np.array(colour) * 0.45
        self.canvas[inside] = tint.astype(np.uint8)
        outline, _ = cv2.findContours(
            inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(self.canvas, outline, -1, colour, 1, cv2.LINE_AA)

    def box(self, box: NDArray[np.float32], colour: Colour) -> None:
        low = self._pixel(box[:2])
        high = self._pixel(box[2:])
        limit = (self.canvas.shape[1] - 1, self.canvas.shape[0] - 1)
        # the last pixel inside the box, so that its line is never off the canvas
        end = (max(low[0], min(high[0] - 1, limit[0])), max(low[1], min(high[1] - 1, limit[1])))
        cv2.rectangle(self.canvas, low, end, colour, self._line)

    def polygon(self, points: NDArray[np.float32], colour: Colour) -> None:
        corners = np.array([self._pixel(point) for point in points], np.int32)
        cv2.polylines(self.canvas, [corners], True, colour, self._line, cv2.LINE_AA)

    def keypoints(self, points: NDArray[np.float32], colour: Colour) -> None:
        shown = np.ones(len(points), bool)
        if points.shape[1] == 3:
            shown = points[:, 2] >= _KEYPOINT_CONFIDENCE
        places = [self._pixel(point[:2]) for point in points]
        if len(points) == 17:
            for a, b in _LIMBS:
                if shown[a] and shown[b]:
                    cv2.line(self.canvas, places[a], places[b], colour, self._line, cv2.LINE_AA)
        for place, visible in zip(places, shown, strict=True):
            if visible:
                cv2.circle(self.canvas, place, self._line + 2, (255, 255, 255), -1, cv2.LINE_AA)
                cv2.circle(self.canvas, place, self._line + 1, colour, -1, cv2.LINE_AA)

    def label(self, text: str, box: tuple[float, float, float, float], colour: Colour) -> None:
        """Write on a plate beside a box: within the picture, and off other plates if it can."""
        (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self._font, 1)
        pad = 3
        plate = (width + 2 * pad, height + below + 2 * pad)
        x1, y1 = self._pixel(np.array(box[:2]))
        x2, y2 = self._pixel(np.array(box[2:]))
        spots = ((x1, y1 - plate[1]), (x1, y2), (x2 - plate[0], y1 - plate[1]), (x1, y1))
        placed = [self._inside(spot, plate) for spot in spots]
        left, top = next((spot for spot in placed if self._free(spot, plate)), placed[0])
        right, bottom = left + plate[0], top + plate[1]
        self._taken.append((left, top, right, bottom))
        cv2.rectangle(self.canvas, (left, top), (right - 1, bottom - 1), colour, -1)
        light = 0.114 * colour[0] + 0.587 * colour[1] + 0.299 * colour[2] < 120
        ink = (255, 255, 255) if light else (20, 20, 20)
        origin = (left + pad, top + pad + height)
        cv2.putText(
            self.canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, self._font, ink, 1, cv2.LINE_AA
        )

    def _inside(self, spot: tuple[int, int], plate: tuple[int, int]) -> tuple[int, int]:
        height, width = self.canvas.shape[:2]
        return (
            max(0, min(spot[0], width - plate[0])),
            max(0, min(spot[1], height - plate[1])),
        )

    def _free(self, spot: tuple[int, int], plate: tuple[int, int]) -> bool:
        left, top = spot
        right, bottom = left + plate[0], top + plate[1]
        return all(
            right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            for other in self._taken
        )

    def _pixel(self, point: NDArray[np.floating]) -> tuple[int, int]:
        x, y = np.round(np.asarray(point, np.float64) * self._scale)
        return int(x), int(y)
