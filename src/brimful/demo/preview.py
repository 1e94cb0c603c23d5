"""A contact sheet: pictures of detections side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.pictures.draw import draw, draw_onto
from brimful.spec import Size
from brimful.vision.geometry import Geometry
from brimful.vision.pixels import Pixels

_BACKGROUND = (28, 26, 24)
_GAP = 6


def contact_sheet(
    images: Sequence[tuple[Pixels, Detections]], *, columns: int = 3, cell: Size = (360, 480)
) -> Pixels:
    """Lay images with their boxes side by side.

    Args:
        images: Images, uint8 (height, width, 3) BGR, each with the boxes that were found in it.
        columns: Images in a row.
        cell: (height, width) that each image is fitted into, keeping its shape.

    Returns:
        uint8 (rows * cell height + gaps, columns * cell width + gaps, 3), BGR.

    Raises:
        UsageError: There is no image, an argument is out of its range, or the detections are of
            another image or of another task than detect.
    """
    if not images:
        raise UsageError("a contact sheet needs at least one image")
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
        sheet[top : top + height, left : left + width] = _picture(image, detections, place.resized)
    return sheet


def _picture(image: Pixels, detections: Detections, size: Size) -> Pixels:
    """Return an image at another size, drawn on after that, so that labels can be read."""
    if detections.task != "detect":
        raise UsageError(f"a contact sheet shows boxes, and these are of {detections.task}")
    height, width = image.shape[:2]
    if (detections.height, detections.width) != (height, width):
        return draw(image, detections)  # says what is wrong
    method = cv2.INTER_AREA if size[0] < height else cv2.INTER_LINEAR
    picture = np.array(cv2.resize(image, size[::-1], interpolation=method), np.uint8)
    scale = np.array((size[1] / width, size[0] / height) * 2, np.float32)
    boxes = detections.boxes * scale
    draw_onto(picture, replace(detections, height=size[0], width=size[1], boxes=boxes))
    return picture
