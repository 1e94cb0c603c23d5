"""FairQueue: the bounded line of images in front of the engine, fair between sources. Pure.

Every source (a job, a camera, a client) has a line of its own. Lines of one priority are served by
deficit round robin (Shreedhar and Varghese, 1995) in canvas pixels: a visit credits a line one full
canvas, and it hands out images while its credit covers them. Lines of a higher priority are served
first. Room is kept for every source (`Room`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from brimful.engine.room import Room


class Queued(Protocol):
    """What the queue asks of an item."""

    source: Hashable
    priority: int
    cost: int


T = TypeVar("T", bound=Queued)


@dataclass(slots=True)
class _Line(Generic[T]):
    """The waiting items of one source at one priority."""

    items: deque[T] = field(default_factory=deque)
    credit: int = 0
    visited: bool = False


class FairQueue(Generic[T]):
    """Lines of waiting items, one per source and priority."""

    def __init__(self, capacity: int, quantum: int) -> None:
        """Start empty.

        Args:
            capacity: Items that may wait in all.
            quantum: Cost that a visit credits a line, at least the largest cost of an item.
        """
        self.quantum = quantum
        self._room = Room(capacity)
        self._levels: dict[int, OrderedDict[Hashable, _Line[T]]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of items waiting."""
        return self._count

    @property
    def contended(self) -> bool:
        """Whether more than one line has items waiting."""
        return len(self._levels) > 1 or any(len(lines) > 1 for lines in self._levels.values())

    def sources(self) -> Iterator[Hashable]:
        """Yield the sources that have items waiting; one may come twice."""
        for lines in self._levels.values():
            yield from lines

    def room(self, source: Hashable) -> int:
        """Return how many more items of a source may wait."""
        return self._room.units(source)

    def waits(self, source: Hashable, priority: int) -> bool:
        """Tell whether a source has items of a priority waiting."""
        return source in self._levels.get(priority, ())

    def offer(self, items: Sequence[T]) -> int:
        """Let items of one source and priority wait, the first ones that there is room for.

        Returns:
            How many wait now.
        """
        source = items[0].source
        entering = min(len(items), self.room(source))
        if entering > 0:
            line = self._line(items[0])
            line.items.extend(items[:entering])
            self._room.take(source, entering)
            self._count += entering
        return entering

    def replace(self, item: T) -> list[T]:
        """Let one item wait in place of all that its source has waiting at its priority.

        Returns:
            The items that it replaced.
        """
        line = self._line(item)
        replaced = list(line.items)
        line.items.clear()
        line.items.append(item)
        if not replaced:
            self._room.take(item.source, 1)
            self._count += 1
        else:
            self._room.give(item.source, len(replaced) - 1)
            self._count -= len(replaced) - 1
        return replaced

    def take(self, limit: int, allowed: Callable[[Hashable], bool] | None = None) -> list[T]:
        """Take up to `limit` items, by priority, then fair between sources.

        Args:
            limit: Items at most.
            allowed: Tells which sources may be served; None for all.
        """
        taken: list[T] = []
        for level in sorted(self._levels, reverse=True):
            lines = self._levels[level]
            passed = 0
            while lines and passed < len(lines) and len(taken) < limit:
                source, line = next(iter(lines.items()))
                if allowed is not None and not allowed(source):
                    lines.move_to_end(source)
                    passed += 1
                    continue
                passed = 0  # it may be served again
                alone = allowed is None and len(lines) == 1
                self._serve(source, line, taken, limit, alone=alone)
                if not line.items:
                    del lines[source]
                elif len(taken) < limit:
                    line.visited = False
                    lines.move_to_end(source)
            if not lines:
                del self._levels[level]
            if len(taken) >= limit:
                break
        return taken

    def charge(self, source: Hashable, priority: int, cost: int) -> None:
        """Correct what a source's items cost, once that is known better than when they were taken.

        Args:
            source: Whose items they were.
            priority: Theirs.
            cost: What they cost more; negative where they cost less.
        """
        lines = self._levels.get(priority)
        line = None if lines is None else lines.get(source)
        if line is not None:  # an empty line has no credit to correct
            # A visit may end with nearly a quantum left, and an image give back nearly another one.
            line.credit = min(line.credit - cost, 2 * self.quantum)

    def clear(self) -> list[T]:
        """Empty every line; return the items that were waiting."""
        lines = [line for level in self._levels.values() for line in level.values()]
        waiting = [item for line in lines for item in line.items]
        for item in waiting:
            self._room.give(item.source, 1)
        self._levels.clear()
        self._count = 0
        return waiting

    def _line(self, item: T) -> _Line[T]:
        return self._levels.setdefault(item.priority, OrderedDict()).setdefault(
            item.source, _Line()
        )

    def _serve(
        self, source: Hashable, line: _Line[T], taken: list[T], limit: int, *, alone: bool
    ) -> None:
        """Take what one visit grants a line."""
        items, before = line.items, len(taken)
        if alone:  # nobody to be fair to
            for _ in range(min(len(items), limit - before)):
                taken.append(items.popleft())
        else:
            if not line.visited:  # a visit that the limit cut short goes on
                line.visited = True
                line.credit += self.quantum
            while items and len(taken) < limit and items[0].cost <= line.credit:
                item = items.popleft()
                line.credit -= item.cost
                taken.append(item)
        count = len(taken) - before
        self._room.give(source, count)
        self._count -= count
