"""Admission: the bounded line of images in front of the engine, fair between sources. Pure.

Every source (a job, a camera, a client) has its own line, and the lines take turns, so one that
brings a thousand images does not make another wait for all of them. An image whose deadline has
passed is handed out as expired, before anything is spent on it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence
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
        return self.offer_some((item,), source=source, deadline=deadline) == 1

    def offer_some(
        self, items: Sequence[T], *, source: Hashable, deadline: float | None = None
    ) -> int:
        """Let as many images wait in their source's line as there is room for; return how many."""
        room = min(len(items), self.capacity - self._count)
        if room > 0:
            line = self._lines.setdefault(source, deque())
            line.extend([(item, deadline) for item in items[:room]])
            self._count += room
        return room

    def take(self, now: float) -> tuple[T, bool] | None:
        """Take the next image, the sources taking turns.

        Returns:
            The image and whether it has expired, or None when none waits.
        """
        taken, expired = self.take_some(now, 1)
        if taken:
            return taken[0], False
        return (expired[0], True) if expired else None

    def take_some(self, now: float, limit: int) -> tuple[list[T], list[T]]:
        """Take up to `limit` images, the sources taking turns image by image.

        Returns:
            The images to run, and those that have expired.
        """
        taken: list[T] = []
        expired: list[T] = []
        left = min(limit, self._count)
        self._count -= left
        while left:
            source, line = next(iter(self._lines.items()))
            alone = len(self._lines) == 1
            for _ in range(min(left, len(line)) if alone else 1):
                item, deadline = line.popleft()
                late = deadline is not None and now >= deadline
                (expired if late else taken).append(item)
                left -= 1
            if line:
                self._lines.move_to_end(source)
            else:
                del self._lines[source]
        return taken, expired

    def clear(self) -> list[T]:
        """Empty every line; return the images that were waiting."""
        waiting = [item for line in self._lines.values() for item, _ in line]
        self._lines.clear()
        self._count = 0
        return waiting
