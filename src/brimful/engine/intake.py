"""The intake: where feeders wait for room and workers wait for images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from brimful.engine.admission import Admission
from brimful.engine.inflight import InFlight
from brimful.engine.work import Work
from brimful.errors import BrimfulError, EngineStoppedError


class Intake:
    """The line of admitted images, with the waiting at both of its ends."""

    def __init__(
        self,
        admission: Admission[Work],
        inflight: InFlight,
        lock: threading.Lock,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start open.

        Args:
            admission: The line.
            inflight: Has every image from its admission on.
            lock: The pipeline's.
            clock: Seconds, monotonic.
        """
        self._admission = admission
        self._inflight = inflight
        self._lock = lock
        self._admitted = threading.Condition(lock)
        self._room = threading.Condition(lock)
        self._clock = clock
        self._error: BrimfulError | None = None

    def admit(self, works: Sequence[Work], *, wait: bool) -> int:
        """Take images of one owner in.

        Args:
            works: The images, all with the same deadline.
            wait: Wait for room for all of them.

        Returns:
            How many were taken in, the first ones: fewer than all only without `wait`.

        Raises:
            EngineStoppedError: The intake is closed.
        """
        admitted = 0
        with self._lock:
            while True:
                if self._error is not None:
                    raise EngineStoppedError(str(self._error)) from self._error
                rest = works[admitted:] if admitted else works
                entered = self._admission.offer_some(
                    rest, source=works[0].owner.source, deadline=works[0].deadline
                )
                if entered:
                    self._inflight.add(rest[:entered])
                    self._admitted.notify(entered)
                    admitted += entered
                if admitted == len(works) or not wait:
                    return admitted
                self._room.wait()

    def take(self, limit: int, sharers: int = 1) -> tuple[list[Work], list[Work]] | None:
        """Wait for images.

        Args:
            limit: Images at most.
            sharers: Workers that share what waits: while it is less than all of them could take,
                each takes its share.

        Returns:
            Images to run and images that have expired, at least one; None when closed.
        """
        with self._lock:
            while True:
                if self._error is not None:
                    return None
                waiting = len(self._admission)
                if waiting:
                    share = -(-waiting // sharers)
                    taken, expired = self._admission.take_some(self._clock(), min(limit, share))
                    self._room.notify(len(taken) + len(expired))
                    return taken, expired
                self._admitted.wait()

    def close(self, error: BrimfulError) -> None:
        """Wake everyone up for good, with the lock held."""
        self._error = error
        self._admission.clear()
        self._admitted.notify_all()
        self._room.notify_all()
