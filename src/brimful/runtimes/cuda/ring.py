"""DecodeRing: device memory that decoded images live in between the decoder and the letterbox.

The JPEG engines write at once, whatever is queued (see `nvjpeg`): an arena is handed out only when
the kernel that read its last images has run.
"""

from __future__ import annotations

from typing import Any

import torch


class Arena:
    """A piece of device memory with an end to its use."""

    def __init__(self, size: int, device: Any) -> None:
        """Allocate `size` bytes on a device."""
        self.memory = torch.empty(size, dtype=torch.uint8, device=device)
        self.pointer = int(self.memory.data_ptr())
        self._read: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def release(self, stream: Any) -> None:
        """Say that what `stream` has queued by now are the last readers."""
        self._read.record(stream)

    def drain(self) -> None:
        """Wait until nothing reads the arena any more."""
        self._read.synchronize()


class DecodeRing:
    """Arenas that take turns. One thread uses it."""

    def __init__(self, size: int, device: Any, *, arenas: int) -> None:
        """Allocate the arenas.

        Args:
            size: Bytes of each.
            device: Where.
            arenas: How many take turns.
        """
        self.size = size
        self._arenas = [Arena(size, device) for _ in range(arenas)]
        self._next = 0

    def acquire(self) -> Arena:
        """Return the next arena, once nothing reads it."""
        arena = self._arenas[self._next]
        self._next = (self._next + 1) % len(self._arenas)
        arena.drain()
        return arena
