"""ReadPermit: the permission to take images and bring them to a device that decodes.

Many workers that do so at a time keep each other, and the device's own threads, from the
interpreter (benchmarks/NOTES.md): a few do, and the others decode what the device does not.
"""

from __future__ import annotations

import threading

FEWEST, WORKERS_PER_PERMIT = 2, 4


def permits(workers: int) -> int:
    """Return how many of so many workers may read at a time: two, or a quarter of many."""
    return max(FEWEST, workers // WORKERS_PER_PERMIT)


class ReadPermit:
    """A worker's permission to take images and bring them to the device, ended by work on pixels.

    It is kept from chunk to chunk: handed round, it would wake a thread for each.
    """

    def __init__(self, permits: threading.Semaphore) -> None:
        """Start without.

        Args:
            permits: Those there are.
        """
        self._permits = permits
        self._mine = False

    def acquire(self) -> bool:
        """Wait for a permit, if this worker has none; return whether it had one."""
        if self._mine:
            return True
        self._permits.acquire()
        self._mine = True
        return False

    def release(self) -> None:
        """Let another worker have it."""
        if self._mine:
            self._mine = False
            self._permits.release()
