import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brimful.vision.nms import BLOCK, nms, probiou, rotated_nms


def crowd(n, seed, *, levels=None):
    """Boxes in clusters, so that many overlap by about any amount."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, 600, (max(1, n // 12), 2))[rng.integers(0, max(1, n // 12), n)]
    centres = centres + rng.normal(0, 8, (n, 2))
    sizes = rng.uniform(20, 90, (n, 2))
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1)
    scores = rng.random(n) if levels is None else rng.integers(0, levels, n) / levels
    return boxes.astype(np.float32), scores.astype(np.float32), rng.integers(0, 4, n, np.int32)


def torch_nms(boxes, scores, iou):
    import torch
    from torchvision.ops import nms as reference

    return reference(torch.from_numpy(boxes), torch.from_numpy(scores), iou).numpy()


@given(st.integers(0, 900), st.integers(0, 2**32 - 1), st.floats(0, 1), st.booleans())
def test_the_same_as_torchvision(n, seed, iou, ties):
    boxes, scores, _ = crowd(n, seed, levels=5 if ties else None)
    np.testing.assert_array_equal(nms(boxes, scores, iou), torch_nms(boxes, scores, iou))


@pytest.mark.parametrize("iou", [0.1, 0.2, 0.3, 0.45, 0.6, 0.7, 1 / 3])
def test_an_overlap_of_just_the_threshold_stays(iou):
    # halves, thirds, tenths of a 60 px box: overlaps that are exactly, or nearly, representable
    grid = np.array([(0, 0, 60, h) for h in range(1, 61)], np.float32)
    scores = np.linspace(1, 0.5, 60, dtype=np.float32)
    for order in (grid, grid[::-1].copy()):
        np.testing.assert_array_equal(nms(order, scores, iou), torch_nms(order, scores, iou))


def test_odd_boxes_are_what_torchvision_makes_of_them():
    nan, inf = np.nan, np.inf
    odd = np.array(
        [
            (0, 0, 10, 10),
            (0, 0, 10, 10),
            (5, 5, 5, 5),  # a point
            (5, 5, 5, 5),
            (10, 10, 0, 0),  # inside out
            (0, nan, 10, 10),
            (nan, nan, nan, nan),
            (0, 0, inf, 10),
            (-inf, -inf, inf, inf),
            (1, 1, 10, 10),
        ],
        np.float32,
    )
    for seed in range(50):
        rng = np.random.default_rng(seed)
        boxes = odd[rng.permutation(len(odd))]
        scores = (rng.integers(1, 4, len(odd)) / 4).astype(np.float32)
        np.testing.assert_array_equal(nms(boxes, scores, 0.5), torch_nms(boxes, scores, 0.5))


@given(st.integers(0, 700), st.integers(0, 2**32 - 1))
def test_classes_do_not_see_each_other(n, seed):
    boxes, scores, classes = crowd(n, seed)
    expected = []
    for label in range(4):
        index = np.flatnonzero(classes == label)
        expected.extend(index[torch_nms(boxes[index], scores[index], 0.5)])
    kept = nms(boxes, scores, 0.5, classes=classes)
    assert sorted(kept) == sorted(expected)
    assert (np.diff(scores[kept]) <= 0).all()


@pytest.mark.parametrize("limit", [0, 1, 5, BLOCK, BLOCK + 1, 10**6])
def test_a_limit_takes_the_first(limit):
    boxes, scores, classes = crowd(3000, 7)
    whole = nms(boxes, scores, 0.7, classes=classes)
    assert len(whole) > BLOCK + 1
    some = nms(boxes, scores, 0.7, classes=classes, limit=limit)
    np.testing.assert_array_equal(some, whole[:limit])
    rotated = np.concatenate((boxes, scores[:, None]), axis=1)
    whole = rotated_nms(rotated, scores, 0.7, classes=classes)
    some = rotated_nms(rotated, scores, 0.7, classes=classes, limit=limit)
    np.testing.assert_array_equal(some, whole[:limit])


def turned(n, seed, spread=1.0):
    """Rotated boxes in clusters, some of them thin."""
    rng = np.random.default_rng(seed)
    boxes, scores, classes = crowd(n, seed)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sizes = np.exp(rng.uniform(0, 5, (n, 2)))
    angle = rng.uniform(-4, 4, (n, 1)) * spread
    return np.concatenate((centres, sizes, angle), axis=1).astype(np.float32), scores, classes


@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_probiou_is_the_one_of_ultralytics(n, seed):
    import torch
    from ultralytics.utils.metrics import batch_probiou

    boxes, _, _ = turned(n, seed)
    expected = batch_probiou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    # near 1 the square root of the distance magnifies the last bit
    np.testing.assert_allclose(probiou(boxes[:, None], boxes[None]), expected, atol=2e-3)


@given(
    st.integers(1, 700),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.02, 0.1, 0.3, 0.5, 0.7, 0.9]),
)
def test_rotated_is_the_fast_nms_of_ultralytics(n, seed, iou):
    import torch
    from ultralytics.utils.metrics import batch_probiou
    from ultralytics.utils.nms import TorchNMS

    boxes, scores, classes = turned(n, seed)
    scores = (np.random.default_rng(seed).permutation(n) / n).astype(np.float32)  # no ties
    for labels in (None, classes):
        groups = np.zeros(n, np.int32) if labels is None else labels
        expected, unsure = set(), set()
        for label in np.unique(groups):
            index = np.flatnonzero(groups == label)
            some, order = torch.from_numpy(boxes[index]), torch.from_numpy(scores[index])
            kept = TorchNMS.fast_nms(some, order, iou, iou_func=batch_probiou)
            expected |= set(index[kept.numpy()].tolist())
            close = (batch_probiou(some, some).numpy() - iou).__abs__() < 1e-4
            unsure |= set(index[close.any(axis=1)].tolist())
        found = rotated_nms(boxes, scores, iou, classes=labels)
        assert (np.diff(scores[found]) < 0).all()
        assert set(found.tolist()) ^ expected <= unsure


def test_nothing_in_nothing_out():
    none = np.empty(0, np.float32)
    assert nms(none.reshape(0, 4), none, 0.5).shape == (0,)
    assert rotated_nms(none.reshape(0, 5), none, 0.5).shape == (0,)
