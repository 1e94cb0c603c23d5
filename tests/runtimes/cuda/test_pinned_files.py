"""Memory for files: parts that do not overlap, and blocks that are used again when nobody looks."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest
import torch

from brimful.runtimes.cuda.input import pinned_files as file_memory
from brimful.runtimes.cuda.input.pinned_files import BLOCK, LARGEST, PinnedFiles, place_of

PARTS = BLOCK // LARGEST


@pytest.fixture(autouse=True)
def unpinned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pinned memory needs a device; return the sizes that were allocated."""
    made: list[int] = []
    real = torch.empty

    def empty(size: int, *, dtype: Any, pin_memory: bool) -> torch.Tensor:
        assert pin_memory
        made.append(size)
        return real(size, dtype=dtype)

    monkeypatch.setattr(file_memory.torch, "empty", empty)
    return made


def address(part: memoryview) -> int:
    return int(np.frombuffer(part, np.uint8).ctypes.data)


def test_parts_do_not_overlap() -> None:
    memory = PinnedFiles()
    sizes = [1, 63, 64, 65, 100_000, LARGEST] * 8
    parts = [memory.take(size) for size in sizes]
    for i, part in enumerate(parts):
        assert part is not None
        part[:] = bytes([i]) * len(part)
    assert [len(part) for part in parts if part is not None] == sizes
    assert all(set(part) == {i} for i, part in enumerate(parts) if part is not None)


def test_a_block_is_used_again_when_its_last_part_is_gone(unpinned: list[int]) -> None:
    memory = PinnedFiles()
    parts = [memory.take(LARGEST) for _ in range(PARTS)]  # a whole block
    first = address(parts[0])
    assert unpinned == [BLOCK]
    kept = memory.take(LARGEST)  # another one
    assert unpinned == [BLOCK] * 2
    held = parts.pop()
    del parts
    more = [memory.take(LARGEST) for _ in range(PARTS)]
    assert unpinned == [BLOCK] * 3, "a part of the first is still held"
    del held
    again = [memory.take(LARGEST) for _ in range(PARTS)]
    assert unpinned == [BLOCK] * 3
    assert first in [address(part) for part in again if part is not None]
    del kept, more


def test_the_limit_is_kept_and_comes_back(unpinned: list[int]) -> None:
    memory = PinnedFiles(2 * BLOCK)
    parts = [memory.take(LARGEST) for _ in range(2 * PARTS)]
    assert all(part is not None for part in parts)
    assert memory.take(1) is None
    assert unpinned == [BLOCK] * 2
    del parts
    gc.collect()
    assert memory.take(1) is not None


def test_a_large_file_gets_none() -> None:
    memory = PinnedFiles()
    assert memory.take(LARGEST + 1) is None
    assert memory.take(0) is None


def test_threads_have_blocks_of_their_own() -> None:
    memory = PinnedFiles()
    parts: list[memoryview] = []
    barrier = threading.Barrier(4)

    def work(value: int) -> None:
        barrier.wait()
        mine = [memory.take(50_000) for _ in range(100)]
        for part in mine:
            assert part is not None
            part[:] = bytes([value]) * len(part)
        for part in mine:
            assert part is not None and set(part) == {value}
            parts.append(part)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parts) == 400
    assert len({address(part) for part in parts}) == 400


def test_closed_it_gives_none_and_keeps_none() -> None:
    memory = PinnedFiles()
    part = memory.take(LARGEST)
    memory.close()
    assert part is not None
    part[:] = bytes(LARGEST)  # what is held can still be used
    del part
    assert all(memory.take(LARGEST) is None for _ in range(8))
    assert not memory._free


def test_parts_are_known_and_anything_else_is_not() -> None:
    memory = PinnedFiles()
    part, other = memory.take(100), memory.take(50)
    assert part is not None and other is not None
    at, block = place_of(part) or (0, 0)
    assert at == address(part)
    assert place_of(other) == (address(other), block), "in the same block"
    assert place_of(part[3:]) == (at + 3, block)
    away = [memory.take(LARGEST) for _ in range(2)][1]
    assert away is not None and (place_of(away) or (0, block))[1] != block
    theirs = memoryview(bytearray(8))
    assert [place_of(data) for data in (b"some", theirs, memoryview(b"some"))] == [None] * 3


def test_what_is_reserved_is_there(unpinned: list[int]) -> None:
    memory = PinnedFiles(4 * BLOCK)
    memory.reserve(2 * BLOCK + 1)
    assert unpinned == [BLOCK] * 3
    parts = [memory.take(LARGEST) for _ in range(3 * PARTS)]
    assert all(part is not None for part in parts) and len(unpinned) == 3
    memory.reserve(10 * BLOCK)
    assert len(unpinned) == 4, "the limit"
