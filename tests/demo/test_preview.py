"""Previews: the right size, everything within the picture, the source untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from brimful.demo.preview import colour_of, contact_sheet, draw
from brimful.detections import Detections
from brimful.errors import UsageError

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


def test_a_box_is_outlined_in_its_classs_colour_and_the_source_is_untouched() -> None:
    image = gray()
    result = draw(image, detections(200, 300, [[100, 80, 200, 160]]))
    assert (image == 90).all()
    colour = np.array(colour_of(0))
    assert (result[80, 120:200] == colour).all()
    assert (result[159, 100:200] == colour).all()
    assert (result[80:160, 100] == colour).all()
    assert (result[80:160, 199] == colour).all()
    assert (result[165:, :] == 90).all()
    assert (result[:, 205:] == 90).all()


@pytest.mark.parametrize(
    "box",
    [[0, 0, 300, 200], [290, 0, 300, 10], [0, 190, 10, 200], [292, 192, 300, 200], [-5, -5, 9, 9]],
)
def test_a_label_at_the_border_is_whole(box: list[float]) -> None:
    """Its letters are the same as those of a label with room on every side."""

    def ink(result: np.ndarray) -> int:
        return int(np.count_nonzero(result.max(axis=2) < 80))

    at_border = draw(gray(), detections(200, 300, [box]))
    inside = draw(gray(), detections(200, 300, [[120, 90, 125, 95]]))
    assert at_border.shape == inside.shape
    assert ink(at_border) == ink(inside) > 20


def test_labels_of_close_boxes_do_not_cover_each_other() -> None:
    close = [[100, 100, 180, 150], [102, 101, 181, 150]]
    result = draw(gray(), detections(200, 300, close))
    alone = draw(gray(), detections(200, 300, close[:1]))
    colour = np.array(colour_of(0))
    first, both = ((r == colour).all(axis=2) for r in (alone, result))
    # the first label's plate, above its box, is as it was
    assert np.array_equal(first[:98], both[:98])


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


def test_masks_are_decoded_and_tinted() -> None:
    mask_module = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((200, 300), np.uint8)
    mask[60:120, 50:90] = 1
    rle = mask_module.encode(np.asfortranarray(mask))
    rle["counts"] = rle["counts"].decode()
    found = detections(200, 300, [[50, 60, 90, 120]], task="segment", masks=(rle,))
    result = draw(gray(), found)
    expected = (0.55 * 90 + 0.45 * np.array(colour_of(0))).astype(np.uint8)
    assert (result[70:110, 60:80] == expected).all()
    assert (result[125:, :] == 90).all()


def test_keypoints_and_rotated_boxes_are_drawn_where_they_are() -> None:
    points = np.array([[[150, 100, 0.9], [20, 20, 0.1]]], np.float32)
    result = draw(
        gray(), detections(200, 300, [[120, 60, 180, 140]], task="pose", keypoints=points)
    )
    assert (result[100, 150] == colour_of(0)).all()
    assert (result[20, 20] == 90).all()

    obb = np.array([[150, 100, 80, 40, np.pi / 2]], np.float32)
    turned = draw(gray(), detections(200, 300, [[130, 60, 170, 140]], task="obb", obb=obb))
    for column in (130, 170):  # anti-aliased, hence nearly the colour
        assert np.abs(turned[100, column].astype(int) - colour_of(0)).max() < 40
    assert (turned[100, 110] == 90).all()


def test_a_classification_and_an_error_are_written_on_the_picture() -> None:
    probs = np.array([0.1, 0.6, 0.1, 0.1, 0.05, 0.05], np.float32)
    result = draw(gray(), detections(200, 300, [], task="classify", probs=probs))
    assert (result[2, 2] == colour_of(1)).all()
    failed = detections(0, 0, [], error="truncated file")
    assert (draw(gray(), failed) != 90).any()


def test_detections_of_another_picture_are_refused() -> None:
    with pytest.raises(UsageError, match="400x300"):
        draw(gray(), detections(300, 400, []))
    with pytest.raises(UsageError, match="at least one"):
        contact_sheet([])
