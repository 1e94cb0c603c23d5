"""Room: a bounded amount shared by sources, of which no source can take all. Pure.

A source may hold at most `SHARE` times what is still free (the dynamic thresholds of Choudhury and
Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998). A lone source
gets four fifths; a second one finds the last fifth free, and as it fills, the first one's share
shrinks. A source that holds nothing is refused only when everything is taken.
"""

from __future__ import annotations

from collections.abc import Hashable

SHARE = 4
"""How many times the free amount a source may hold."""


class Room:
    """Who holds how much of a bounded amount."""

    def __init__(self, capacity: int) -> None:
        """Start with all of it free.

        Args:
            capacity: The amount, at least 1.
        """
        self.capacity = capacity
        self._held: dict[Hashable, int] = {}
        self._total = 0
        self._larger = 0

    @property
    def total(self) -> int:
        """What all sources hold."""
        return self._total

    def units(self, source: Hashable) -> int:
        """Return how many more units a source may take."""
        free = self.capacity - self._total
        held = self._held.get(source, 0)
        share = (SHARE * free - held) // (SHARE + 1)
        return max(share, 1 if free > 0 and held == 0 else 0)

    def fits(self, source: Hashable, amount: int) -> bool:
        """Tell whether a source may take one item of `amount`.

        An empty room takes any, and one item may be larger than all of it at a time.
        """
        if not amount or not self._total:
            return True
        if amount > self.capacity:
            return not self._larger
        free = self.capacity - self._total - amount
        held = self._held.get(source, 0)
        return free >= 0 and (held == 0 or held + amount <= SHARE * free)

    def take(self, source: Hashable, amount: int) -> None:
        """Count what a source took."""
        if amount:
            self._held[source] = self._held.get(source, 0) + amount
            self._total += amount
            self._larger += amount > self.capacity

    def give(self, source: Hashable, amount: int) -> None:
        """Count what a source gave back."""
        if amount:
            self._total -= amount
            self._larger -= amount > self.capacity
            left = self._held[source] - amount
            if left:
                self._held[source] = left
            else:
                del self._held[source]
