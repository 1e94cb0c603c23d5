"""The cost model: what was measured, and what follows from it for what was not."""

from __future__ import annotations

import itertools
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brimful.engine.cost_model import KEPT, CostModel, bucket

SMALL, WIDE, FULL = (320, 320), (320, 640), (640, 640)


def model_of(*seen: tuple[tuple[int, int], int, float]) -> CostModel:
    model = CostModel()
    for canvas, images, seconds in seen:
        model.observe(canvas, images, seconds)
    return model


def test_nothing_is_known_at_first():
    model = CostModel()
    assert model.forward_s(FULL, 4) == 0.0
    assert model.table() == {}


@pytest.mark.parametrize(
    ("images", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8), (9, 16), (33, 64)]
)
def test_batch_sizes_are_powers_of_two(images, size):
    assert bucket(images) == size


def test_the_median_of_what_was_measured():
    model = model_of(*((FULL, 4, seconds) for seconds in (0.1, 9.0, 0.2, 0.3, 0.1)))
    assert model.forward_s(FULL, 4) == pytest.approx(0.2)
    assert model.forward_s(FULL, 3) == pytest.approx(0.2)


def test_only_the_newest_count():
    model = model_of(*((FULL, 1, 5.0) for _ in range(100)))
    found = []
    for _ in range(KEPT):
        model.observe(FULL, 1, 1.0)
        found.append(model.forward_s(FULL, 1))
    assert found[: KEPT // 2 - 1] == [5.0] * (KEPT // 2 - 1), "most of those kept are old"
    assert found[KEPT // 2 :] == [1.0] * (KEPT // 2)
    assert model.forward_s(FULL, 1, quantile=0.99) == pytest.approx(1.0), "the old are forgotten"


def test_sizes_and_canvases_are_learnt_apart():
    model = model_of((FULL, 1, 0.1), (FULL, 8, 0.5), (SMALL, 8, 0.2))
    assert model.forward_s(FULL, 1) == pytest.approx(0.1)
    assert model.forward_s(FULL, 8) == pytest.approx(0.5)
    assert model.forward_s(SMALL, 8) == pytest.approx(0.2)
    assert model.table() == {FULL: {1: 0.1, 8: 0.5}, SMALL: {8: 0.2}}


def test_a_batch_larger_than_any_seen_costs_in_proportion():
    model = model_of((FULL, 1, 0.1), (FULL, 4, 0.2))
    assert model.forward_s(FULL, 16) == pytest.approx(0.8)


def test_a_batch_smaller_than_any_seen_is_not_assumed_to_be_cheaper():
    assert model_of((FULL, 8, 0.5)).forward_s(FULL, 1) == pytest.approx(0.5)


def test_a_canvas_that_was_not_seen_costs_as_its_pixels():
    model = model_of((SMALL, 4, 0.1), (FULL, 4, 1.0))
    assert model.forward_s((320, 960), 4) == pytest.approx(1.0 * 0.75), "as the nearest one"
    assert model.forward_s((320, 352), 4) == pytest.approx(0.1 * 1.1)
    assert model.forward_s((1280, 640), 8) == pytest.approx(1.0 * 2 * 2)


@given(
    st.lists(st.floats(1e-4, 10), min_size=1, max_size=60),
    st.lists(st.floats(0.01, 0.99), min_size=2, max_size=6),
)
def test_a_quantile_lies_among_the_newest_and_grows(seconds, quantiles):
    model = model_of(*((FULL, 2, s) for s in seconds))
    newest = seconds[-KEPT:]
    found = [model.forward_s(FULL, 2, quantile=q) for q in sorted(quantiles)]
    slack = 1e-9 * max(newest)
    assert all(a <= b + slack for a, b in itertools.pairwise(found))
    assert min(newest) - slack <= found[0] and found[-1] <= max(newest) + slack
    assert model.forward_s(FULL, 2) == pytest.approx(median(newest))
    assert model.table()[FULL][2] == pytest.approx(median(newest))
