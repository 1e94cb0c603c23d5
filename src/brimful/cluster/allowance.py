"""Allowance: how many images an engine process may hold. Pure.

Enough to keep it busy, little enough that what a slow one holds does not hold up the others, as
results come out in order. By Little's law the images held are the rate times the time they take, so
the allowance grows while a chunk comes back within the target time, and shrinks while it does not.
"""

from __future__ import annotations


class Allowance:
    """Images that one engine process may hold at a time."""

    def __init__(self, *, least: int, most: int, target_s: float) -> None:
        """Start with the least.

        Args:
            least: Never fewer than these.
            most: Never more than these.
            target_s: Seconds that a chunk may take from being sent to coming back.
        """
        self._least = least
        self._most = most
        self._target_s = target_s
        self.images = least

    def observe(self, count: int, seconds: float) -> None:
        """Learn from a chunk that came back.

        Args:
            count: Images in it.
            seconds: Since it was sent.
        """
        step = count if seconds <= self._target_s else -count
        self.images = min(self._most, max(self._least, self.images + step))
