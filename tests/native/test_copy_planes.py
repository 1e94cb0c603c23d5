"""Planes copied together: every row where it belongs, and nothing beside the targets."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from brimful.native import copy_planes
from brimful.native.copy_planes import compiled_copier, copy_with_numpy, open_copier
from brimful.native.load import NotCompiledError

GUARD = 0xA5


@pytest.fixture(params=["c", "numpy"])
def copy(request: pytest.FixtureRequest) -> Any:
    if request.param == "numpy":
        return copy_with_numpy
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler here")
    return compiled_copier()


@pytest.mark.parametrize("same_pitch", [False, True])
def test_planes_of_several_sizes(copy: Any, same_pitch: bool) -> None:
    rng = np.random.default_rng(5)
    sizes = [(1, 1), (3, 64), (17, 5), (2, 1023), (98, 130)]
    pitches = [(width + i, width + i if same_pitch else width + 7) for i, (_, width) in
               enumerate(sizes)]  # fmt: skip
    # exactly as long as they must be: the last row has no padding
    sources = [
        rng.integers(0, 256, (rows - 1) * pitch + width, np.uint8)
        for (rows, width), (pitch, _) in zip(sizes, pitches, strict=True)
    ]
    memory = np.full(sum(rows * to + 50 for (rows, _), (_, to) in
                         zip(sizes, pitches, strict=True)), GUARD, np.uint8)  # fmt: skip
    table, starts, at = [], [], 25
    for source, (rows, width), (pitch, to) in zip(sources, sizes, pitches, strict=True):
        starts.append(at)
        table.append((source.ctypes.data, pitch, memory.ctypes.data + at, to, rows, width))
        at += rows * to + 50
    copy(np.array(table, np.int64))
    used = np.zeros(len(memory), bool)
    for source, start, (rows, width), (pitch, to) in zip(
        sources, starts, sizes, pitches, strict=True
    ):
        for y in range(rows):
            row = memory[start + y * to : start + y * to + width]
            np.testing.assert_array_equal(row, source[y * pitch : y * pitch + width])
        used[start : start + (rows - 1) * to + width] = True
    assert (memory[~used] == GUARD).all(), "nothing is written beside the planes"


def test_none(copy: Any) -> None:
    copy(np.zeros((0, copy_planes.COLUMNS), np.int64))


def test_without_a_compiler_numpy_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise NotCompiledError("there is none")

    monkeypatch.setattr(copy_planes, "load_library", refuse)
    assert open_copier() is copy_with_numpy
