"""Drawing: at the right pixels, in the right colours, and nowhere else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from picture_kit import NAMES, found, gray, noise

from brimful.errors import UsageError
from brimful.pictures.draw import draw
from brimful.pictures.font import ascii_of, coverage
from brimful.pictures.labels import plate
from brimful.pictures.palette import colour_of, ink_on
from brimful.pictures.style import Style

PLAIN = Style(labels=False, line_width=1)


def painted(image: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return (image != picture).any(2)


def holds(picture: np.ndarray, part: np.ndarray) -> bool:
    """Tell whether a part is somewhere in a picture, to the last bit."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, part.shape)
    return bool((windows == part).all((2, 3, 4, 5)).any())


def test_a_box_is_on_its_own_pixels_and_no_other_pixel_changes():
    image = noise(200, 300)
    before = image.copy()
    picture = draw(image, found(200, 300, [[100, 80, 200, 160]]), PLAIN)
    assert np.array_equal(image, before)
    outline = np.zeros((200, 300), bool)
    outline[80, 100:200] = outline[159, 100:200] = True
    outline[80:160, 100] = outline[80:160, 199] = True
    assert (picture[outline] == colour_of(0)).all()
    assert np.array_equal(picture[~outline], image[~outline])


@pytest.mark.parametrize("line", [1, 2, 5])
def test_lines_are_as_wide_as_asked(line):
    style = Style(labels=False, line_width=line)
    changed = painted(gray(), draw(gray(), found(200, 300, [[100, 80, 200, 160]]), style))
    assert changed[120, 80:120].sum() == changed[60:100, 150].sum() == line


def test_colours_are_the_same_in_every_version():
    assert [colour_of(i) for i in (0, 1, 11, 12, 79)] == [
        (255, 178, 29),
        (60, 220, 120),
        (30, 120, 200),
        (255, 178, 29),
        (150, 255, 200),
    ]


def test_letters_stand_out_from_their_plates():
    """WCAG 2 asks 4.5 to 1 of text, and 3 to 1 of large letters."""

    def luminance(colour):
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
            for c in (value / 255 for value in colour)
        ]
        return 0.0722 * linear[0] + 0.7152 * linear[1] + 0.2126 * linear[2]

    for class_id in range(12):
        pair = sorted(luminance(c) for c in (colour_of(class_id), ink_on(colour_of(class_id))))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 3.5, class_id


@pytest.mark.parametrize("level", [0, 255])
def test_a_label_is_the_same_on_any_background(level):
    image = gray(level=level)
    d = found(200, 300, [[100, 80, 200, 160]])
    label = plate("bolt 0.90", Style().text_of((200, 300)), colour_of(0), 300)
    picture = draw(image, d)
    assert np.array_equal(picture[80 - label.shape[0] : 80, 100 : 100 + label.shape[1]], label)


@pytest.mark.parametrize(
    "box",
    [[0, 0, 300, 200], [290, 0, 300, 10], [0, 190, 10, 200], [292, 192, 300, 200], [-5, -5, 9, 9]],
)
def test_a_label_at_the_border_is_whole(box):
    label = plate("bolt 0.90", Style().text_of((200, 300)), colour_of(0), 300)
    picture = draw(gray(), found(200, 300, [box]))
    assert holds(picture, label)


def test_labels_keep_off_each_other_and_the_best_one_is_on_top():
    # as many at one place as nowhere is room for
    boxes = [[10, 10, 40, 30]] * 6
    picture = draw(gray(40, 60), found(40, 60, boxes))
    label = plate("bolt 0.90", Style().text_of((40, 60)), colour_of(0), 60)
    assert holds(picture, label)
    two = draw(gray(), found(200, 300, [[100, 100, 180, 150], [102, 101, 181, 150]]))
    for text, class_id in (("bolt 0.90", 0), ("nut 0.40", 1)):
        label = plate(text, Style().text_of((200, 300)), colour_of(class_id), 300)
        assert holds(two, label)


def test_what_is_switched_off_is_not_drawn():
    d = found(200, 300, [[100, 80, 200, 160]])
    assert not painted(gray(), draw(gray(), d, Style(boxes=False))).any()
    assert painted(gray(), draw(gray(), d, Style()))[:75].any()
    assert not painted(gray(), draw(gray(), d, Style(labels=False)))[:75].any()
    with_conf = draw(gray(), d, Style())
    without = draw(gray(), d, Style(conf=False))
    assert painted(gray(), without).sum() < painted(gray(), with_conf).sum()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (32, 32), (1, 400), (400, 1)])
def test_small_images(size):
    height, width = size
    name = "a name that is much longer than the image is wide"
    d = found(height, width, [[0, 0, width, height]], names=(name, *NAMES))
    assert draw(gray(height, width), d).shape == (height, width, 3)


def test_a_label_that_is_too_wide_loses_its_confidence_then_its_end():
    whole = plate("person", 9, (0, 0, 0), 200)
    narrow = plate("person 0.87", 9, (0, 0, 0), whole.shape[1])
    assert np.array_equal(narrow, whole[:, 1:-1])  # with less of a margin
    assert plate("a name that is far too long", 9, (0, 0, 0), 40).shape[1] <= 40


def test_names_in_other_scripts_are_written():
    if not hasattr(cv2, "FontFace"):
        pytest.skip("OpenCV 4 has no font for them")
    written = [coverage(text, 16) for text in ("日", "本", "ж", "ß", "?")]
    assert all(image.any() for image in written)
    for i, one in enumerate(written):
        for other in written[:i]:
            assert one.shape != other.shape or not np.array_equal(one, other)


def test_a_font_without_other_scripts_says_so():
    assert ascii_of("naïve Ångström") == "naive Angstrom"
    assert ascii_of("日本 1") == "?? 1"


def test_masks_tint_their_pixels_alone():
    mask_module = pytest.importorskip("pycocotools.mask")
    mask = np.zeros((200, 300), np.uint8)
    cv2.circle(mask, (150, 100), 40, 1, -1)
    rle = mask_module.encode(np.asfortranarray(mask))
    rle = {"size": rle["size"], "counts": rle["counts"].decode()}
    d = found(200, 300, [[110, 60, 191, 141]], task="segment", masks=(rle,))
    picture = draw(gray(), d, Style(boxes=False))
    around = cv2.dilate(mask, np.ones((5, 5), np.uint8)) > 0
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8)) > 0
    assert not painted(gray(), picture)[~around].any()
    expected = 0.55 * 90 + 0.45 * np.array(colour_of(0))
    assert (np.abs(picture[inside] - expected) <= 1).all()


def test_a_rotated_box_is_where_opencv_says():
    box = (150.0, 100.0, 120.0, 40.0, 0.5)
    d = found(200, 300, [[80, 50, 220, 150]], task="obb", obb=np.array([box], np.float32))
    changed = painted(gray(), draw(gray(), d, PLAIN))
    corners = cv2.boxPoints(((150, 100), (120, 40), np.degrees(0.5)))
    expected = np.zeros((200, 300), np.uint8)
    cv2.polylines(expected, [np.round(corners).astype(np.int32)], True, 1, 5)
    assert changed.any() and not (changed & (expected == 0)).any()
    for x, y in np.round(corners).astype(int):
        assert changed[y - 1 : y + 2, x - 1 : x + 2].any()


def test_points_are_drawn_where_they_are_visible_and_limbs_between_them():
    points = np.zeros((1, 17, 3), np.float32)
    points[0, 5], points[0, 7], points[0, 9] = (50, 50, 0.9), (50, 150, 0.5), (250, 150, 0.49)
    d = found(200, 300, [[40, 40, 260, 160]], task="pose", keypoints=points)
    changed = painted(gray(), draw(gray(), d, Style(boxes=False)))
    assert changed[50:151, 50].all()  # from the shoulder to the elbow
    assert not changed[:, 60:].any()  # the wrist is not visible
    assert not changed[:20].any()
    four = found(200, 300, [[0, 0, 9, 9]], task="pose", keypoints=points[:, 5:10])
    changed = painted(gray(), draw(gray(), four, Style(boxes=False)))
    assert changed[50, 50] and changed[150, 50] and not changed[100].any()
    flat = found(200, 300, [[0, 0, 9, 9]], task="pose", keypoints=points[:, 5:10, :2])
    changed = painted(gray(), draw(gray(), flat, Style(boxes=False)))
    assert changed[150, 250] and not changed[:20].any()  # (0, 0) is no point


def test_a_classifier_has_its_five_best_classes():
    probs = np.array([0.02, 0.4, 0.03, 0.3, 0.2, 0.05], np.float32)
    d = found(200, 300, [], task="classify", probs=probs)
    picture = draw(gray(), d)
    height = plate("x", Style().text_of((200, 300)), colour_of(0), 300).shape[0]
    for place, class_id in enumerate((1, 3, 4, 5, 2)):
        text = f"{NAMES[class_id]} {probs[class_id]:.2f}"
        label = plate(text, Style().text_of((200, 300)), colour_of(class_id), 300)
        room = picture[place * height : (place + 1) * height, : label.shape[1]]
        assert np.array_equal(room, label)
    assert not painted(gray(), picture)[5 * height :].any()
    assert not painted(gray(), draw(gray(), d, Style(labels=False))).any()


def test_broken_numbers_do_not_stop_a_picture():
    bad = [[np.nan, 0, 10, 10], [np.inf, -np.inf, 10, 10], [1e30, 1e30, 2e30, 2e30]]
    points = np.full((3, 17, 3), np.nan, np.float32)
    d = found(200, 300, bad, task="pose", keypoints=points)
    assert draw(gray(), d).shape == (200, 300, 3)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UsageError, match=r"300x200, and this one is 30x20"):
        draw(gray(20, 30), found(200, 300, []))
    with pytest.raises(UsageError, match="no result: it is torn"):
        draw(gray(), found(200, 300, [], error="it is torn"))
    with pytest.raises(UsageError, match="line_width"):
        Style(line_width=0)
