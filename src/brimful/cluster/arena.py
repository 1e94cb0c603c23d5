"""Arena: memory that the parent writes images into and the engine processes read.

A memory file has no name in /dev/shm, so nothing is left of it however the processes end, and the
small size that containers give /dev/shm does not bound it. Pages take memory once they are written.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from bisect import bisect_left
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGN = 64  # a cache line: two writers share none


@dataclass(frozen=True, slots=True)
class Block:
    """Where in an arena an image is.

    Attributes:
        start: Offset of its first byte.
        size: Its bytes.
        shape: Shape of the array; None for encoded bytes.
        dtype: The array's type as numpy spells it, such as `|u1`.
    """

    start: int
    size: int
    shape: tuple[int, ...] | None
    dtype: str


class Arena:
    """A range of shared memory in blocks. The parent allocates and frees, under its own lock.

    It travels to a process as an argument of its start, and is the same memory there.
    """

    def __init__(self, size: int) -> None:
        """Reserve the range.

        Args:
            size: Bytes; a block that needs more never fits.
        """
        self.size = size
        self._free = [(0, size)]
        self._descriptor = os.memfd_create("brimful-images", os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, size)
        self._memory = mmap.mmap(self._descriptor, size)

    @property
    def used(self) -> int:
        """Bytes allocated, padding included."""
        return self.size - sum(stop - start for start, stop in self._free)

    def allocate(self, image: NDArray[Any] | bytes) -> Block | None:
        """Reserve a block for an image, the first that is large enough; None if none is."""
        size = image.nbytes if isinstance(image, np.ndarray) else len(image)
        padded = -(-size // _ALIGN) * _ALIGN
        for i, (start, stop) in enumerate(self._free):
            if stop - start >= padded:
                if start + padded == stop:
                    del self._free[i]
                else:
                    self._free[i] = (start + padded, stop)
                if isinstance(image, np.ndarray):
                    return Block(start, size, image.shape, image.dtype.str)
                return Block(start, size, None, "|u1")
        return None

    def write(self, block: Block, image: NDArray[Any] | bytes) -> None:
        """Copy an image into its block."""
        if isinstance(image, np.ndarray):
            self._view(block)[...] = image  # numpy gives up the interpreter's lock for it
        else:
            self._memory[block.start : block.start + block.size] = image

    def read(self, block: Block) -> NDArray[Any] | bytes:
        """Return an image: a view of the arena for an array, a copy for encoded bytes."""
        if block.shape is not None:
            return self._view(block)
        return self._memory[block.start : block.start + block.size]

    def free(self, block: Block) -> None:
        """Give a block back; nobody may read it any more."""
        start = block.start
        stop = start + -(-block.size // _ALIGN) * _ALIGN
        i = bisect_left(self._free, (start, stop))
        if i < len(self._free) and self._free[i][0] == stop:
            stop = self._free.pop(i)[1]
        if i > 0 and self._free[i - 1][1] == start:
            start = self._free.pop(i - 1)[0]
            i -= 1
        self._free.insert(i, (start, stop))

    def close(self) -> None:
        """Give the memory back; it goes when the last process and the last view of it do."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with contextlib.suppress(BufferError):  # an image is being written
                self._memory.close()

    def __getstate__(self) -> dict[str, Any]:
        """Pass the memory file on to a process that is being started."""
        return {"size": self.size, "descriptor": DupFd(self._descriptor)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the memory file that the parent passed on."""
        self.size = state["size"]
        self._free = []
        self._descriptor = state["descriptor"].detach()
        self._memory = mmap.mmap(self._descriptor, self.size)

    def _view(self, block: Block) -> NDArray[Any]:
        assert block.shape is not None
        return np.ndarray(block.shape, block.dtype, self._memory, block.start)
