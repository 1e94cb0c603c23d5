"""Who waits for results: a job's stream, or the future of a single image."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from brimful.detections import Detections
from brimful.engine.stream import ResultStream
from brimful.engine.work import Work


@dataclass(slots=True, eq=False)
class StreamOwner:
    """The stream of a job; the number of a work is the stream's."""

    stream: ResultStream

    @property
    def source(self) -> Hashable:
        """The job itself."""
        return id(self.stream)

    def settle(self, works: Sequence[Work], results: Sequence[Detections]) -> None:
        """Put the results into the stream."""
        self.stream.put_all([work.number for work in works], results)

    def fail(self, works: Sequence[Work], error: Exception) -> None:
        """Let the stream fail."""
        self.stream.fail(error)


@dataclass(slots=True, eq=False)
class FutureOwner:
    """The future of one image, for a client."""

    future: Future[Detections]
    client: Hashable = None

    @property
    def source(self) -> Hashable:
        """The client."""
        return self.client

    def settle(self, works: Sequence[Work], results: Sequence[Detections]) -> None:
        """Set the result, unless nobody wants it any more."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(results[0])

    def fail(self, works: Sequence[Work], error: Exception) -> None:
        """Set the error, unless nobody wants it any more."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)
