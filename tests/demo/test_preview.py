"""Previews: the right size, everything within its cell, the source untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from brimful.demo.preview import contact_sheet
from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.pictures.palette import colour_of

NAMES = ("bolt", "nut", "washer", "gear", "bearing", "crack")


def detections(height: int, width: int, boxes: list[list[float]], **fields: Any) -> Detections:
    values: dict[str, Any] = {
        "image": "a.jpg",
        "index": 0,
        "width": width,
        "height": height,
        "task": "detect",
        "names": NAMES,
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "confidence": np.linspace(0.9, 0.4, len(boxes)).astype(np.float32),
        "class_id": (np.arange(len(boxes)) % len(NAMES)).astype(np.int32),
    }
    return Detections(**(values | fields))


def gray(height: int = 200, width: int = 300) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_a_sheet_has_a_cell_for_every_image() -> None:
    images = [
        (gray(120, 160), detections(120, 160, [[10, 10, 60, 60]])),
        (gray(300, 100), detections(300, 100, [])),
        (gray(90, 400), detections(90, 400, [[350, 20, 399, 89]])),
        (gray(), detections(200, 300, [])),
    ]
    sheet = contact_sheet(images, columns=3, cell=(150, 200))
    gap = 6
    assert sheet.shape == (2 * 150 + 3 * gap, 3 * 200 + 4 * gap, 3)
    assert sheet.dtype == np.uint8
    # every cell shows its picture at the middle, the two empty ones nothing
    for position, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        pixel = sheet[gap + row * (150 + gap) + 75, gap + column * (200 + gap) + 100]
        assert (tuple(pixel) == (90, 90, 90)) == (position < 4)
    # the box at the right end of the wide picture ends at the right end of its cell
    colour = (sheet == np.array(colour_of(0))).all(axis=2)
    assert colour[:156, 3 * (200 + gap) - 2].any()
    assert not colour[:, 3 * (200 + gap) :].any()


def test_one_image_makes_a_sheet_of_one_column() -> None:
    sheet = contact_sheet([(gray(), detections(200, 300, []))], columns=4, cell=(100, 150))
    assert sheet.shape == (112, 162, 3)


def test_what_no_sheet_shows_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        contact_sheet([])
    with pytest.raises(UsageError, match="400x300"):
        contact_sheet([(gray(), detections(300, 400, []))])
    with pytest.raises(UsageError, match="of pose"):
        contact_sheet([(gray(), detections(200, 300, [], task="pose"))])
