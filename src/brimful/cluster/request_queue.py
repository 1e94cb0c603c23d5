"""RequestQueue: submitted images that wait for a process. Pure.

Clients share it fairly (`FairQueue`). What a process held when it ended comes back: as it was, and
before all else, if the device was broken; as a suspect, if the process crashed. A suspect is handed
out apart, to be run by a process that holds nothing else, so that the one with which a second
process crashes is known.
"""

from __future__ import annotations

from collections import deque

from brimful.cluster.pool_request import PoolRequest
from brimful.engine.fair_queue import FairQueue

MOST_CRASHES = 2
"""Processes that may crash with a request before it gets an error."""


class RequestQueue:
    """Requests that wait to be handed out."""

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Args:
            capacity: New requests that may wait. Those that come back need no room.
        """
        self.capacity = capacity
        self._waiting: FairQueue[PoolRequest] = FairQueue(capacity, 1)
        self._returned: deque[PoolRequest] = deque()
        self._suspects: deque[PoolRequest] = deque()

    def __len__(self) -> int:
        """Return the number of requests waiting, suspects included."""
        return len(self._waiting) + len(self._returned) + len(self._suspects)

    @property
    def suspects(self) -> int:
        """Suspects waiting."""
        return len(self._suspects)

    def offer(self, request: PoolRequest) -> list[PoolRequest] | None:
        """Let a new request wait.

        Returns:
            The requests that it replaced (line policy `newest`); None where there is no room.
        """
        waiting = self._waiting
        if request.line == "newest" and waiting.waits(request.source, request.priority):
            return waiting.replace(request)
        return [] if waiting.offer([request]) else None

    def take(self) -> PoolRequest | None:
        """Hand out the next request that is no suspect."""
        if self._returned:
            return self._returned.popleft()
        taken = self._waiting.take(1)
        return taken[0] if taken else None

    def take_suspect(self) -> PoolRequest | None:
        """Hand out the next suspect; whoever takes it must hold nothing else."""
        return self._suspects.popleft() if self._suspects else None

    def give_back(self, request: PoolRequest, *, crashed: bool) -> bool:
        """Take back what a process held when it ended.

        Args:
            request: What it held.
            crashed: The process crashed, and the request had been sent to it.

        Returns:
            Whether it waits again. False when it has crashed its last process: it is for the
            caller to settle it with an error.
        """
        request.crashes += crashed
        if request.crashes >= MOST_CRASHES:
            return False
        (self._suspects if request.suspect else self._returned).append(request)
        return True

    def clear(self) -> list[PoolRequest]:
        """Forget everything that waits, and return it."""
        waiting = [*self._suspects, *self._returned, *self._waiting.clear()]
        self._suspects.clear()
        self._returned.clear()
        return waiting
