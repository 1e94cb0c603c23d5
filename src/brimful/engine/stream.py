"""ResultStream: results of one job in the order of its images, with bounded memory.

A feeder thread brings images in, stages settle results in any order, the consumer takes them in
order. An image counts against the window from when it is fed until the consumer has taken its
result, so a slow consumer, or one slow image at the head, stops the feeder and not the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from brimful.detections import Detections


class ResultStream:
    """The window between the feeder and the consumer of one job."""

    def __init__(self, window: int) -> None:
        """Start empty.

        Args:
            window: Images between feeding and taking at most.
        """
        self._window = window
        self._changed = threading.Condition()
        self._settled: dict[int, Detections] = {}
        self._fed = 0
        self._taken = 0
        self._total: int | None = None
        self._error: BaseException | None = None
        self._ending: BaseException | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether the consumer has gone."""
        return self._closed

    def enter(self, count: int) -> range | None:
        """Wait for room for one image at least, and let in as many as there is room for.

        Args:
            count: Images that want in, at least one.

        Returns:
            The numbers of the first ones, which are in; None when no more is wanted.
        """
        with self._changed:
            while not self._closed and self._error is None:
                room = self._window - (self._fed - self._taken)
                if room > 0:
                    first = self._fed
                    self._fed += min(count, room)
                    return range(first, self._fed)
                self._changed.wait()
            return None

    def put_all(self, numbers: Sequence[int], results: Sequence[Detections]) -> None:
        """Settle the results of some images."""
        with self._changed:
            if self._closed:
                return
            self._settled.update(zip(numbers, results, strict=True))
            if self._taken in self._settled:  # there is something to take
                self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Say that no more images come.

        Args:
            error: Why, if that is not how it should be; raised to the consumer once it has the
                results of all images that came.
        """
        with self._changed:
            self._total = self._fed
            self._ending = error
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        """Say that results which were promised will not come.

        Args:
            error: Why; raised to the consumer once it has the results that are ready.
        """
        with self._changed:
            if self._error is None:
                self._error = error
            self._changed.notify_all()

    def close(self) -> None:
        """Say that the consumer has gone."""
        with self._changed:
            self._closed = True
            self._settled.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[list[Detections]]:
        """Yield the results in order, all that are ready at a time."""
        while True:
            ready: list[Detections] = []
            with self._changed:
                while True:
                    while (result := self._settled.pop(self._taken, None)) is not None:
                        ready.append(result)
                        self._taken += 1
                    if ready:
                        self._changed.notify_all()
                        break
                    if self._error is not None:
                        raise self._error
                    if self._total is not None and self._taken >= self._total:
                        if self._ending is not None:
                            raise self._ending
                        return
                    self._changed.wait()
            yield ready
