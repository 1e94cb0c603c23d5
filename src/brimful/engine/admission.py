"""Admission: the bounded line of images in front of the engine, fair between sources. Pure.

Every source (a job, a camera, a client) has its own line, and the lines take turns, so one that
brings a thousand images does not make another wait for all of them. An image whose deadline has
passed is handed out as expired, before anything is spent on it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Admission(Generic[T]):
    """Lines of waiting images, one per source."""

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: Images that may wait in all; `offer` refuses more.
        """
        self.capacity = capacity
        self._lines: OrderedDict[Hashable, deque[tuple[T, float | None]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        """Return the number of images waiting."""
        return self._count

    def offer(self, item: T, *, source: Hashable, deadline: float | None = None) -> bool:
        """Let an image wait in its source's line; return False when there is no room."""
        if self._count >= self.capacity:
            return False
        self._lines.setdefault(source, deque()).append((item, deadline))
        self._count += 1
        return True

    def take(self, now: float) -> tuple[T, bool] | None:
        """Take the next image, the sources taking turns.

        Returns:
            The image and whether it has expired, or None when none waits.
        """
        if not self._lines:
            return None
        source, line = next(iter(self._lines.items()))
        item, deadline = line.popleft()
        self._count -= 1
        if line:
            self._lines.move_to_end(source)
        else:
            del self._lines[source]
        return item, deadline is not None and now >= deadline

    def clear(self) -> list[T]:
        """Empty every line; return the images that were waiting."""
        waiting = [item for line in self._lines.values() for item, _ in line]
        self._lines.clear()
        self._count = 0
        return waiting
