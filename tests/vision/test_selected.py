"""Rows that were selected on a device: finished exactly as those selected here."""

from __future__ import annotations

import numpy as np
import pytest
from test_postprocess import HEADS, IMAGES, TASKS, assert_same, fake_outputs, placed, spec

from brimful.errors import ModelError
from brimful.vision.heads.encoded_masks import EncodedMasks
from brimful.vision.heads.rows import Inverse
from brimful.vision.masks import instance_masks
from brimful.vision.postprocess import (
    SELECT,
    PostprocessConfig,
    Selected,
    build_postprocess,
)


def selected(model, outputs, count, errors=None):
    rows = SELECT[model.head](outputs[0], count, model, PostprocessConfig())
    return Selected(rows=rows, arrays=outputs[1:], errors=errors or {})


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", TASKS)
def test_only_the_selection_is_skipped(task, head):
    model = spec(task, head)
    run = build_postprocess(model, PostprocessConfig())
    outputs, images = fake_outputs(model, len(IMAGES)), placed()
    expected = run(outputs, images)
    assert min(len(d) for d in expected) > 10
    assert_same(run(selected(model, outputs, len(images)), images), expected)


def test_the_thresholds_of_the_device_hold():
    """The host does not select again."""
    model = spec()
    outputs, images = fake_outputs(model, 2), placed(IMAGES[:2])
    strict = build_postprocess(model, PostprocessConfig(conf=0.99, classes=(0,)))
    loose = build_postprocess(model, PostprocessConfig())
    assert_same(strict(selected(model, outputs, 2), images), loose(outputs, images))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("failed", [[0], [4], [1, 3], [0, 1, 2, 3, 4]])
def test_an_image_with_an_error_hurts_none_of_its_neighbours(task, failed):
    model = spec(task)
    run = build_postprocess(model, PostprocessConfig())
    outputs, images = fake_outputs(model, len(IMAGES)), placed()
    expected = run(outputs, images)
    # the device may have left rows of garbage for what it could not decode
    errors = {i: f"the JPEG {i} is damaged" for i in failed}
    chosen = selected(model, outputs, len(images), errors)
    garbage = np.isin(chosen.rows.image, failed)
    assert garbage.any()
    chosen.rows.boxes[garbage] = np.nan
    chosen.rows.extra[garbage] = np.inf
    found = run(chosen, images)
    assert_same(
        [d for i, d in enumerate(found) if i not in failed],
        [d for i, d in enumerate(expected) if i not in failed],
    )
    for i in failed:
        result = found[i]
        assert result.error == f"the JPEG {i} is damaged"
        assert len(result) == 0 and len(result.boxes) == 0
        assert (result.image, result.index) == (f"{i}.jpg", i)
        assert (result.height, result.width) == IMAGES[i]


def test_an_empty_batch_and_one_without_a_row():
    model = spec()
    run = build_postprocess(model, PostprocessConfig())
    outputs = [np.zeros_like(fake_outputs(model, 2)[0])]
    assert run(selected(model, outputs, 0), []) == []
    found = run(selected(model, outputs, 2), placed(IMAGES[:2]))
    assert [len(d) for d in found] == [0, 0]
    assert all(d.error is None for d in found)


@pytest.mark.parametrize("count", [1, 3])
def test_rows_of_another_number_of_images_are_refused(count):
    model = spec()
    run = build_postprocess(model, PostprocessConfig())
    outputs = fake_outputs(model, 3)
    with pytest.raises(ModelError, match=f"expected rows of 2 images, got rows of {count}"):
        run(selected(model, outputs, count), placed(IMAGES[:2]))


def test_an_error_of_an_image_that_is_not_there_is_refused():
    model = spec()
    run = build_postprocess(model, PostprocessConfig())
    outputs = fake_outputs(model, 2)
    with pytest.raises(ModelError, match="errors of \\[2\\]"):
        run(selected(model, outputs, 2, {2: "x"}), placed(IMAGES[:2]))


def test_segment_rows_need_their_prototypes():
    model = spec("segment")
    run = build_postprocess(model, PostprocessConfig())
    outputs = fake_outputs(model, 2)
    with pytest.raises(ModelError, match="prototypes"):
        run(selected(model, outputs[:1], 2), placed(IMAGES[:2]))


def test_a_classifier_selects_nothing():
    model = spec("classify", "classify")
    run = build_postprocess(model, PostprocessConfig())
    rows = selected(spec(), fake_outputs(spec(), 1), 1)
    with pytest.raises(ModelError, match="probabilities"):
        run(rows, placed(IMAGES[:1]))


def encoded(model, outputs, count, errors=None):
    """Rows whose masks are all encoded as the host would, but for every third."""
    chosen = selected(model, outputs, count, errors)
    boxes = Inverse.of(chosen.rows, placed()[:count]).boxes(chosen.rows.boxes)
    texts = []
    for image, span in enumerate(chosen.rows.spans()):
        geometry = placed()[image].geometry
        masks = instance_masks(outputs[1][image], chosen.rows.extra[span], boxes[span], geometry)
        texts += ["" if mask is None else mask["counts"] for mask in masks]
    lengths = np.array([len(text) for text in texts], np.int32)
    lengths[::3] = -1
    text = "".join(text for text, length in zip(texts, lengths, strict=True) if length > 0)
    chosen.masks = EncodedMasks.of(lengths, text.encode(), dict(enumerate(outputs[1])))
    chosen.arrays = ()
    return chosen


@pytest.mark.parametrize("failed", [[], [0], [1, 3]])
def test_masks_that_the_device_encoded_and_those_it_had_no_room_for(failed):
    model = spec("segment")
    run = build_postprocess(model, PostprocessConfig())
    outputs, images = fake_outputs(model, len(IMAGES)), placed()
    outputs[1] = np.round(outputs[1])
    expected = run(outputs, images)
    errors = dict.fromkeys(failed, "damaged")
    found = run(encoded(model, outputs, len(images), errors), images)
    assert [d.error for d in found] == [errors.get(i) for i in range(len(images))]
    assert_same(
        [d for d in found if d.error is None],
        [d for i, d in enumerate(expected) if i not in failed],
    )


def test_masks_of_another_number_or_task_are_refused():
    model = spec("segment")
    outputs, images = fake_outputs(model, 2), placed(IMAGES[:2])
    run = build_postprocess(model, PostprocessConfig())
    chosen = encoded(model, outputs, 2)
    keep = np.arange(len(chosen.masks.lengths)) > 0
    chosen.masks = chosen.masks.where(keep)
    with pytest.raises(ModelError, match="expected a mask for each of"):
        run(chosen, images)
    chosen.rows = chosen.rows.where(keep)
    assert len(run(chosen, images)) == 2
    with pytest.raises(ModelError, match="for a detect model"):
        build_postprocess(spec(), PostprocessConfig())(chosen, images)
