"""The factory line: the same picture for the same index, and labels that match what is drawn."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from brimful.demo.line import FactoryLine
from brimful.demo.render import draw
from brimful.demo.scene import CLASSES, CRACK, Light, Scene
from brimful.errors import UsageError


def digest(line: FactoryLine, index: int) -> str:
    pixels, labels = line.image(index)
    return hashlib.sha256(pixels.tobytes() + repr(labels).encode()).hexdigest()


def test_an_image_is_the_same_in_another_process_and_order() -> None:
    line = FactoryLine(seed=5)
    here = [digest(line, index) for index in (0, 3, 17)]
    program = (
        "import hashlib\n"
        "from brimful.demo.line import FactoryLine\n"
        "line = FactoryLine(seed=5)\n"
        "for index in (17, 3, 0):\n"
        "    pixels, labels = line.image(index)\n"
        "    print(hashlib.sha256(pixels.tobytes() + repr(labels).encode()).hexdigest())\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert there.stdout.split() == here[::-1]


def test_images_differ_between_indices_and_seeds() -> None:
    digests = {digest(FactoryLine(seed=seed), index) for seed in (0, 1) for index in range(4)}
    assert len(digests) == 8


@pytest.mark.parametrize("size", [(480, 640), (640, 384), (720, 1280)])
def test_pictures_have_the_size_and_their_boxes_lie_inside(size: tuple[int, int]) -> None:
    line = FactoryLine(seed=2, size=size)
    for index in range(6):
        pixels, labels = line.image(index)
        assert pixels.shape == (*size, 3)
        assert pixels.dtype == np.uint8
        for class_id, x1, y1, x2, y2 in labels:
            assert 0 <= class_id < len(CLASSES)
            assert 0 <= x1 < x2 <= size[1]
            assert 0 <= y1 < y2 <= size[0]
            assert min(x2 - x1, y2 - y1) >= 10


def plain(light: Light) -> Light:
    """Light that changes nothing outside a part: no shadows, no blur; the noise stays the same."""
    return replace(light, shadow=0.0, defocus=0.0, motion=0.0, bars=(), exposure=1.0, noise=0.0)


def without(scene: Scene, position: int) -> Scene:
    return replace(scene, parts=scene.parts[:position] + scene.parts[position + 1 :])


def extent(mask: np.ndarray) -> tuple[float, float, float, float]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def test_a_parts_box_is_the_extent_of_the_pixels_that_it_changes() -> None:
    """The oracle knows no masks: it takes the part away and looks where the picture changes."""
    line, compared = FactoryLine(seed=4), 0
    for index in range(16):
        scene = line.plan(index)
        parts = tuple(replace(p, crack=None) for p in scene.parts if p.kind != "arm")
        scene = replace(scene, light=plain(scene.light), parts=parts)
        if not parts:
            continue
        frame = draw(scene)
        # the highest part is the last label, if it is visible enough to have one
        part, last = parts[-1], draw(without(scene, len(parts) - 1))
        changed = np.abs(frame.pixels.astype(int) - last.pixels).max(axis=2) > 8
        if len(frame.labels) != len(last.labels) + 1 and not changed.any():
            continue
        ours = [
            label
            for label in frame.labels
            if label.class_id == CLASSES.index(part.kind)
            and label.x1 - 1 <= part.x <= label.x2 + 1
            and label.y1 - 1 <= part.y <= label.y2 + 1
        ]
        if not ours:
            continue
        np.testing.assert_allclose(ours[-1][1:], extent(changed), atol=1.01)
        compared += 1
    assert compared >= 10


def test_a_cracks_box_is_the_extent_of_the_pixels_that_it_darkens() -> None:
    line, compared = FactoryLine(seed=6), 0
    for index in range(24):
        scene = line.plan(index)
        scene = replace(scene, light=plain(scene.light))
        for position, part in enumerate(scene.parts):
            if part.crack is None:
                continue
            alone = replace(scene, parts=(part,))
            whole = replace(scene, parts=(replace(part, crack=None),))
            frame = draw(alone)
            boxes = [label[1:] for label in frame.labels if label.class_id == CRACK]
            if not boxes:
                continue
            assert len(boxes) == 1, position
            # half covered by the crack is 0.65 of the intact level or less: its bright rim counts
            intact = draw(whole).pixels.max(axis=2).astype(float)
            cracked = frame.pixels.max(axis=2)
            darker = (cracked < 0.7 * intact) & (cracked < intact - 8)
            np.testing.assert_allclose(boxes[0], extent(darker), atol=1.01)
            compared += 1
    assert compared >= 15


def test_what_is_hidden_has_no_label() -> None:
    scene = FactoryLine(seed=0, parts=(1, 1)).plan(0)
    part = next(p for p in scene.parts if p.kind != "arm")
    below = replace(part, kind="nut", radius=26.0, crack=None, x=300.0, y=240.0)
    above = replace(below, kind="gear", variant=0, radius=70.0)
    apart = replace(above, x=150.0)
    covered = draw(replace(scene, parts=(below, above))).labels
    assert [CLASSES[label.class_id] for label in covered] == ["gear"]
    beside = draw(replace(scene, parts=(below, apart))).labels
    assert sorted(CLASSES[label.class_id] for label in beside) == ["gear", "nut"]


def test_a_half_hidden_part_has_the_box_of_what_is_visible() -> None:
    scene = FactoryLine(seed=0, parts=(1, 1)).plan(0)
    part = next(p for p in scene.parts if p.kind != "arm")
    washer = replace(part, kind="washer", variant=0, radius=60.0, crack=None, x=300.0, y=240.0)
    scene = replace(scene, parts=(replace(washer, squash=1.0),))
    whole = draw(scene).labels[0]
    # a large plain gear over the right third
    gear = replace(washer, kind="gear", variant=0, radius=72.0, x=395.0)
    partly = draw(replace(scene, parts=(*scene.parts, gear))).labels[0]
    assert partly[:3] == whole[:3]
    assert whole.x2 - 40 < partly.x2 < whole.x2 - 5


def test_classes_are_about_as_frequent_as_each_other() -> None:
    line = FactoryLine(seed=1)
    count = Counter(label.class_id for index in range(150) for label in line.image(index)[1])
    mean = sum(count.values()) / len(CLASSES)
    assert {CLASSES[i]: round(count[i] / mean, 2) for i in range(len(CLASSES))} == {
        name: pytest.approx(1.0, abs=0.3) for name in CLASSES
    }


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 160"):
        FactoryLine(size=(100, 640))
    with pytest.raises(UsageError, match="seed"):
        FactoryLine(seed=-1)
    with pytest.raises(UsageError, match="parts"):
        FactoryLine(parts=(5, 2))
    with pytest.raises(UsageError, match="index"):
        FactoryLine().image(-1)
