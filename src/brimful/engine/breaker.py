"""Breaker: tells a device that fails from images that make a forward fail. Pure.

A forward that fails may be its images' fault. When every image of a batch fails also on its own,
the engine probes the device with a blank image. If that fails as well, again and again, the
device is at fault and the engine stops, so that no image gets an error row for it.
"""

from __future__ import annotations

PROBE_DELAYS_S = (0.0, 0.1, 0.3)
"""Seconds to wait before each probe of a device on which a batch failed."""

MOST_FAILURES = 8
"""Batches that may run out of memory one after the other with no forward that succeeds between."""


class Breaker:
    """Counts the batches that failed since the last forward that succeeded."""

    def __init__(self, most: int = MOST_FAILURES) -> None:
        """Start closed.

        Args:
            most: Failures in a row at which it opens.
        """
        self._most = most
        self._failures = 0

    @property
    def open(self) -> bool:
        """Whether the device must be considered broken."""
        return self._failures >= self._most

    def succeeded(self) -> None:
        """Count a forward that succeeded."""
        self._failures = 0

    def failed(self) -> None:
        """Count a batch of which no image could be run."""
        self._failures += 1
