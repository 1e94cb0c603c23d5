"""SharedImages: the arena with who holds how much of it, and a wait for room."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import Any

from numpy.typing import NDArray

from brimful.cluster.arena import Arena, Block
from brimful.cluster.packing import Packed, size_of
from brimful.engine.room import Room


class SharedImages:
    """Images in memory on their way to the processes. Any thread may call any method.

    Sources (a job, a client) share the arena as they share an engine's queue: none can take all
    of it (`Room`).
    """

    def __init__(self, arena: Arena) -> None:
        """Start empty.

        Args:
            arena: The memory.
        """
        self._arena = arena
        self._changed = threading.Condition()
        self._room = Room(arena.size)
        self._holders: dict[int, tuple[Hashable, int]] = {}
        self._closed = False

    @property
    def size(self) -> int:
        """Bytes of the arena; an image of more never fits."""
        return self._arena.size

    @property
    def used(self) -> int:
        """Bytes in use."""
        with self._changed:
            return self._arena.used

    def put(
        self,
        source: Hashable,
        image: NDArray[Any] | bytes,
        *,
        wanted: Callable[[], bool],
        wait: bool = True,
        deadline: float | None = None,
    ) -> Block | None:
        """Copy an image into the arena.

        Args:
            source: Whose it is.
            image: At most `size` bytes.
            wanted: Tells whether to go on waiting; looked at again after `wake`.
            wait: Wait for room.
            deadline: When to stop waiting, on the clock of `time.monotonic`; None waits on.

        Returns:
            Where it is; None when there was no room, or it is not wanted any more.
        """
        with self._changed:
            while True:
                if not self._is_open() or not wanted():
                    return None
                block = self._reserve(source, image)
                if block is not None:
                    break
                left = None if deadline is None else deadline - time.monotonic()
                if not wait or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)
        try:
            self._arena.write(block, image)
        except ValueError:
            if self._is_open():
                raise
            return None  # it was closed meanwhile
        return block

    def free(self, items: Iterable[Packed]) -> None:
        """Give back the memory of images that no process reads any more."""
        blocks = [item[4] for item in items if isinstance(item[4], Block)]
        if not blocks:
            return
        with self._changed:
            for block in blocks:
                self._arena.free(block)
                source, size = self._holders.pop(block.start)
                self._room.give(source, size)
            self._changed.notify_all()

    def wake(self) -> None:
        """Let whoever waits for room look whether the image is still wanted."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Give the memory back."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._arena.close()

    def _is_open(self) -> bool:
        return not self._closed

    def _reserve(self, source: Hashable, image: NDArray[Any] | bytes) -> Block | None:
        size = size_of(image)
        block = self._arena.allocate(image) if self._room.fits(source, size) else None
        if block is not None:
            self._room.take(source, size)
            self._holders[block.start] = source, size
        return block
