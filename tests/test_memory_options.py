"""Sizes, batches and budgets as options; tests/runtimes/test_cuda.py has what they do."""

from __future__ import annotations

import pytest

from brimful.cli.choices import parse_batch
from brimful.cuda.budget import KNEE, knee, sizes_to_try
from brimful.errors import UsageError
from brimful.memory.size import parse_bytes, show_bytes
from loading import load


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1048576", 2**20),
        ("2GiB", 2**31),
        ("1.5 GiB", 3 * 2**29),
        ("800MB", 800_000_000),
        ("3g", 3_000_000_000),
        ("64 mib", 2**26),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "2TiB", "GiB", "1,5GiB", "2 GiB more"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse_bytes(text)


def test_sizes_for_people() -> None:
    assert show_bytes(2**31) == "2.00 GiB"
    assert show_bytes(300 * 2**20) == "300 MiB"


def test_batches() -> None:
    assert parse_batch(None) is None
    assert parse_batch("auto") == parse_batch("-1") == "auto"
    assert parse_batch("12") == 12
    for text in ("0", "-2", "many", "1.5"):
        with pytest.raises(UsageError, match="at least 1"):
            parse_batch(text)


def test_the_knee_is_the_smallest_batch_that_is_nearly_as_fast() -> None:
    assert knee({1: 1_500, 16: 11_000, 64: 18_600, 128: 20_700}) == 128
    assert knee({1: 100, 4: 101, 16: 102}) == 1
    assert knee({8: 95.0, 16: 100.0}) == 8  # exactly at the knee
    assert knee({8: 100 * KNEE - 0.1, 16: 100.0}) == 16
    assert knee({4: 120.0, 32: 100.0}) == 4  # a larger one may be slower


def test_batches_that_are_tried() -> None:
    assert list(sizes_to_try(48)) == [48]
    assert list(sizes_to_try(None)) == [128, 64, 32, 16, 8, 4, 2, 1]


def test_a_budget_for_a_gpu_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="device is cpu"):
        load(None, runtime="debug", gpu_mem="2GiB")


def test_a_budget_that_nobody_would_keep_is_refused() -> None:
    with pytest.raises(UsageError, match="not by runtime=debug with no model"):
        load(None, runtime="debug", device="cuda:0", gpu_mem="2GiB")
    with pytest.raises(UsageError, match="at least 1 byte"):
        load(None, runtime="debug", device="cuda:0", gpu_mem=0)
