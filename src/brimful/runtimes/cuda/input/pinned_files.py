"""PinnedFiles: pinned memory that encoded images are read into.

The device reads it by itself; what lies elsewhere is copied first, on the thread that decodes. And
memory that is used again is not asked from the system for every file.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

BLOCK = 8 * 2**20
"""Bytes of a block, which images share. Each thread that reads keeps one."""

LARGEST = BLOCK // 2
"""A larger image gets none: it would waste most of a block. Photographs of cameras fit."""

LIMIT = 512 * 2**20
"""Bytes of all blocks."""

ALIGNMENT = 64


class _Pinned(np.ndarray[Any, Any]):
    """Memory of a block: a type of its own tells its parts from any other memory."""


def place_of(data: bytes | memoryview, address: int = 0) -> tuple[int, int] | None:
    """Return where in pinned memory an image is, or None if no block has it.

    Args:
        data: The image.
        address: Of the data, if it is known: asking for it costs more than all else here.

    Returns:
        Its address, and a number that parts of the same block share.
    """
    if isinstance(data, memoryview):
        block = data.obj
        if isinstance(block, _Pinned):
            return address or ctypes.addressof(ctypes.c_char.from_buffer(data)), id(block)
    return None


class PinnedFiles:
    """Blocks of pinned memory, handed out in parts. Any thread may ask.

    A block is used again when nobody holds a part of it any more.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        """Start without a block.

        Args:
            limit: Bytes that may be allocated in all.
        """
        self._limit = limit
        self._allocated = 0
        # Blocks come back wherever the last part is dropped, with the lock held or not.
        self._free: deque[NDArray[Any]] = deque()
        self._lock = threading.Lock()
        self._local = threading.local()
        self._closed = False

    def reserve(self, size: int) -> None:
        """Allocate memory before it is needed: pinning it in the middle of a job holds others up.

        Args:
            size: Bytes, rounded up to whole blocks; no more than the limit.
        """
        blocks = [self._block() for _ in range(-(-size // BLOCK))]
        del blocks  # they are free again

    def take(self, size: int) -> memoryview | None:
        """Return memory for an image, or None where there is none for it.

        Args:
            size: Its bytes.
        """
        if self._closed or not 0 < size <= LARGEST:
            return None
        local = self._local
        start = getattr(local, "used", BLOCK)
        if start + size > BLOCK:
            local.block = None  # not to be held while another is looked for
            local.used = BLOCK
            block = self._block()
            if block is None:
                return None
            local.block, start = block, 0
        local.used = -(-(start + size) // ALIGNMENT) * ALIGNMENT
        part: memoryview = local.block[start : start + size]
        return part

    def close(self) -> None:
        """Free the blocks; those in use go when nobody holds a part of them any more."""
        self._closed = True
        self._free.clear()

    def _block(self) -> memoryview | None:
        with self._lock:
            if self._closed:
                return None
            try:
                memory = self._free.pop()
            except IndexError:
                if self._allocated + BLOCK > self._limit:
                    return None
                self._allocated += BLOCK
                memory = torch.empty(BLOCK, dtype=torch.uint8, pin_memory=True).numpy()
                memory = memory.view(_Pinned)
        held = memory[:]  # parts keep this view alive, and it tells when the last one is gone
        weakref.finalize(held, self._give, memory).atexit = False
        return held.data

    def _give(self, memory: NDArray[Any]) -> None:
        if not self._closed:
            self._free.append(memory)
