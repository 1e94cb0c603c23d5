"""DecodeRing: device memory that decoded images live in between the decoder and the letterbox.

The JPEG engines write at once, whatever is queued (see `nvjpeg`): an arena is handed out only when
the kernel that read its last images has run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.vision.cuda.ycc import COLUMNS


class Arena:
    """A piece of device memory with an end to its use.

    Attributes:
        memory: uint8 (bytes,).
        pointer: Its address.
        planes: int64 (images, ycc.COLUMNS) on the device, where the images are in it.
    """

    def __init__(self, size: int, images: int, device: Any) -> None:
        """Allocate.

        Args:
            size: Bytes.
            images: That it holds at most.
            device: Where.
        """
        self.memory = torch.empty(size, dtype=torch.uint8, device=device)
        self.pointer = int(self.memory.data_ptr())
        self.planes = torch.zeros((images, COLUMNS), dtype=torch.int64, device=device)
        self._planes_host = torch.zeros((images, COLUMNS), dtype=torch.int64, pin_memory=True)
        self._read: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def describe(self, planes: NDArray[np.int64]) -> None:
        """Bring rows of `planes` onto the device, on the current stream.

        The stream must have run before this is called again.
        """
        count = len(planes)
        self._planes_host.numpy()[:count] = planes
        self.planes[:count].copy_(self._planes_host[:count], non_blocking=True)

    def release(self, stream: Any) -> None:
        """Say that what `stream` has queued by now are the last readers."""
        self._read.record(stream)

    def drain(self) -> None:
        """Wait until nothing reads the arena any more."""
        self._read.synchronize()


class DecodeRing:
    """Arenas that take turns. One thread uses it."""

    def __init__(self, size: int, images: int, device: Any, *, arenas: int) -> None:
        """Allocate the arenas.

        Args:
            size: Bytes of each.
            images: That each holds at most.
            device: Where.
            arenas: How many take turns.
        """
        self.size = size
        self._arenas = [Arena(size, images, device) for _ in range(arenas)]
        self._next = 0

    def acquire(self) -> Arena:
        """Return the next arena, once nothing reads it."""
        arena = self._arenas[self._next]
        self._next = (self._next + 1) % len(self._arenas)
        arena.drain()
        return arena
