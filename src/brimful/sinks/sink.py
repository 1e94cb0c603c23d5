"""Sink: where detections go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from brimful.detections import Detections
from brimful.sinks.done import DoneSet


class Sink(Protocol):
    """Where detections go. One thread uses it at a time."""

    @property
    def done(self) -> DoneSet:
        """What an earlier, interrupted run of the job has written already; fixed at open."""
        ...

    def earlier(self) -> Iterator[Detections]:
        """Yield the results of that earlier run, in order, one in memory at a time."""
        ...

    def write(self, batch: Sequence[Detections]) -> None:
        """Write results, in one piece. After it returns, the end of the process loses none."""
        ...

    def append(self, lines: bytes) -> None:
        """Write results that are JSON lines already, whole ones, as `encode_jsonl` makes them."""
        ...

    def finish(self) -> None:
        """The job is complete: make the output appear, whole and at once."""
        ...

    def abandon(self) -> None:
        """The job stops early: keep what is needed to resume it. Does nothing after `finish`."""
        ...
