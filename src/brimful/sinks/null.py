"""NullSink: detections that nobody wants as data, as those of a job that makes pictures alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from brimful.detections import Detections
from brimful.sinks.done import DoneSet


class NullSink:
    """A sink that keeps nothing. See `brimful.sinks.sink.Sink` for what the methods promise."""

    def __init__(self) -> None:
        """Start; nothing can be resumed."""
        self.done = DoneSet()

    def earlier(self) -> Iterator[Detections]:
        """Yield nothing."""
        return iter(())

    def write(self, batch: Sequence[Detections]) -> None:
        """Drop results."""

    def append(self, lines: bytes) -> None:
        """Drop lines."""

    def finish(self) -> None:
        """Do nothing."""

    def abandon(self) -> None:
        """Do nothing."""
