"""draw: detections of any task drawn into the image that they are of."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.formats.polygon import obb_corners
from brimful.formats.rle import decode_rle
from brimful.pictures.labels import Labels, plate
from brimful.pictures.palette import Colour, colour_of
from brimful.pictures.skeleton import draw_skeleton
from brimful.pictures.style import DEFAULT, Style
from brimful.vision.pixels import Pixels

TOP = 5
"""Classes of a classifier that are named."""

_TINT = 0.45  # of a mask's colour in its pixels
_SHIFT = 3  # OpenCV's fixed point: eighths of a pixel
_FAR = 1e6


def draw(image: Pixels, detections: Detections, style: Style = DEFAULT) -> Pixels:
    """Return a copy of an image with its detections drawn in.

    Args:
        image: uint8 (height, width, 3), BGR.
        detections: What was found in it, of any task.
        style: What is drawn.

    Raises:
        UsageError: The detections are of an image of another size, or there is no result.
    """
    canvas = np.array(image, order="C")
    draw_onto(canvas, detections, style)
    return canvas


def draw_onto(canvas: Pixels, detections: Detections, style: Style = DEFAULT) -> None:
    """Draw detections into their image: `draw` without a copy.

    Args:
        canvas: uint8 (height, width, 3), BGR, C-contiguous and writeable.
        detections: What was found in it.
        style: What is drawn.

    Raises:
        UsageError: As `draw`.
    """
    size = (canvas.shape[0], canvas.shape[1])
    if detections.error is not None:
        raise UsageError(f"{detections.image!r} has no result: {detections.error}")
    if (detections.height, detections.width) != size:
        raise UsageError(
            f"the detections of {detections.image!r} are of an image of "
            f"{detections.width}x{detections.height}, and this one is {size[1]}x{size[0]}"
        )
    if detections.probs is not None:
        if style.labels:
            _draw_classes(canvas, detections, style)
        return
    _Painter(canvas, detections, style).paint()


def _draw_classes(canvas: Pixels, detections: Detections, style: Style) -> None:
    """Write the most probable classes into the upper left corner, one below the other."""
    assert detections.probs is not None
    labels = Labels(canvas)
    height = style.text_of((canvas.shape[0], canvas.shape[1]))
    top = 0
    for class_id in np.argsort(-detections.probs, kind="stable")[:TOP].tolist():
        text = detections.names[class_id]
        if style.conf:
            text = f"{text} {detections.probs[class_id]:.2f}"
        label = plate(text, height, colour_of(class_id), canvas.shape[1])
        if top + label.shape[0] > canvas.shape[0] and top:
            break  # a small image has no room for all of them
        labels.add(label, (0, top + label.shape[0], 0, top))
        top += label.shape[0]
    labels.paste()


class _Painter:
    """Draws one image's detections: masks below, outlines, then labels, the best one on top."""

    def __init__(self, canvas: Pixels, detections: Detections, style: Style) -> None:
        self._canvas = canvas
        self._detections = detections
        self._style = style
        self._size = (canvas.shape[0], canvas.shape[1])
        self._line = style.line_of(self._size)
        self._colours = [colour_of(class_id) for class_id in detections.class_id.tolist()]

    def paint(self) -> None:
        """Draw all of it."""
        d, order = self._detections, range(len(self._detections) - 1, -1, -1)
        if d.masks is not None:
            for i in order:
                self._mask(d.masks[i], self._colours[i])
        if self._style.boxes:
            corners = None if d.obb is None else obb_corners(d.obb)
            for i in order:
                if corners is None:
                    self._box(d.boxes[i], self._colours[i])
                else:
                    self._polygon(corners[i], self._colours[i])
        if d.keypoints is not None:
            for i in order:
                draw_skeleton(self._canvas, d.keypoints[i], self._colours[i], self._line)
        if self._style.boxes and self._style.labels:
            self._labels()

    def _mask(self, rle: dict[str, Any], colour: Colour) -> None:
        mask = decode_rle(rle)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            return
        top, left = int(rows[0]), int(columns[0])
        part = np.ascontiguousarray(mask[top : rows[-1] + 1, left : columns[-1] + 1])
        room = self._canvas[top : rows[-1] + 1, left : columns[-1] + 1]
        tint = cv2.addWeighted(room, 1 - _TINT, np.full_like(room, colour), _TINT, 0.0)
        cv2.copyTo(tint, part, room)
        outline, _ = cv2.findContours(
            part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=(left, top)
        )
        cv2.drawContours(self._canvas, outline, -1, colour, 1, cv2.LINE_AA)

    def _box(self, box: NDArray[np.floating], colour: Colour) -> None:
        x1, y1, x2, y2 = self._pixels(box)
        # the last pixel inside the box, so that its line is never off the picture
        x2 = max(x1, min(x2 - 1, self._size[1] - 1))
        y2 = max(y1, min(y2 - 1, self._size[0] - 1))
        # OpenCV's thick lines are thicker than they should be
        line = self._line
        left, top = x1 - line // 2, y1 - line // 2
        right, bottom = x2 - line // 2, y2 - line // 2
        for y in (top, bottom):
            self._fill(left, y, right + line, y + line, colour)
        for x in (left, right):
            self._fill(x, top, x + line, bottom + line, colour)

    def _fill(self, x1: int, y1: int, x2: int, y2: int, colour: Colour) -> None:
        self._canvas[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = colour

    def _polygon(self, points: NDArray[np.floating], colour: Colour) -> None:
        eighths = np.round(np.nan_to_num(points).clip(-_FAR, _FAR) * (1 << _SHIFT))
        cv2.polylines(
            *(self._canvas, [eighths.astype(np.int32)], True, colour, self._line),
            cv2.LINE_AA,
            _SHIFT,
        )

    def _labels(self) -> None:
        d, labels = self._detections, Labels(self._canvas)
        height = self._style.text_of(self._size)
        for i, class_id in enumerate(d.class_id.tolist()):
            text = d.names[class_id]
            if self._style.conf:
                text = f"{text} {d.confidence[i]:.2f}"
            x1, y1, x2, y2 = self._pixels(d.boxes[i])
            label = plate(text, height, self._colours[i], self._size[1])
            labels.add(label, (x1 - self._line // 2, y1, x2, y2))
        labels.paste()

    @staticmethod
    def _pixels(box: NDArray[np.floating]) -> tuple[int, int, int, int]:
        x1, y1, x2, y2 = np.round(np.nan_to_num(box).clip(-_FAR, _FAR)).astype(int).tolist()
        return x1, y1, x2, y2
