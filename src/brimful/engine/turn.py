"""Turn: the permission to take images and bring them to a device that decodes.

Many workers that do so at a time keep each other, and the device's own threads, from the
interpreter (benchmarks/NOTES.md): a few do, and the others decode what the device does not.
"""

from __future__ import annotations

import threading

FEWEST, WORKERS_PER_TURN = 2, 4


def turns(workers: int) -> int:
    """Return how many of so many workers may have a turn at a time: two, or a quarter of many."""
    return max(FEWEST, workers // WORKERS_PER_TURN)


class Turn:
    """A worker's turn to take images and bring them to the device, ended by work on pixels.

    It is kept from chunk to chunk: handed round, it would wake a thread for each.
    """

    def __init__(self, turns: threading.Semaphore) -> None:
        """Have none yet.

        Args:
            turns: Those there are.
        """
        self._turns = turns
        self._mine = False

    def take(self) -> bool:
        """Wait for a turn, if it is not this worker's already; return whether it was."""
        if self._mine:
            return True
        self._turns.acquire()
        self._mine = True
        return False

    def give(self) -> None:
        """Give the turn to another worker."""
        if self._mine:
            self._mine = False
            self._turns.release()
