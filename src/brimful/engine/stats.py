"""Stage statistics: how busy each stage was, and which one limits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

STAGES = ("source", "decode", "compile", "preprocess", "forward", "postprocess", "sink")
"""In the order of an image's way; `compile` is the making of slots, once a canvas."""


@dataclass(frozen=True, slots=True)
class StageUse:
    """How a stage spent a run.

    Attributes:
        name: One of STAGES.
        seconds: Time spent at work, over all its workers.
        workers: Workers it had.
        busy: Share of the run its workers were at work, 0 to 1.
    """

    name: str
    seconds: float
    workers: int
    busy: float


class StageStats:
    """Time spent in each stage. Safe to call from any thread."""

    def __init__(self) -> None:
        """Start the clock."""
        self._lock = threading.Lock()
        self._seconds = dict.fromkeys(STAGES, 0.0)
        self._batches: dict[int, int] = {}
        self.started = time.perf_counter()

    def add(self, stage: str, seconds: float) -> None:
        """Count time at work in a stage."""
        with self._lock:
            self._seconds[stage] += seconds

    def count_batch(self, images: int) -> None:
        """Count a forward of so many images."""
        with self._lock:
            self._batches[images] = self._batches.get(images, 0) + 1

    def batches(self) -> dict[int, int]:
        """Return how many forwards there were of each batch size."""
        with self._lock:
            return dict(sorted(self._batches.items()))

    def reset(self) -> None:
        """Forget everything and start the clock anew."""
        with self._lock:
            self._seconds = dict.fromkeys(STAGES, 0.0)
            self._batches = {}
            self.started = time.perf_counter()

    def use(self, workers: dict[str, int]) -> list[StageUse]:
        """Return every stage's use since the start.

        Args:
            workers: Workers of each stage that has more than one.
        """
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        with self._lock:
            seconds = dict(self._seconds)
        return [
            StageUse(name, spent, count, spent / (count * elapsed))
            for name, spent in seconds.items()
            for count in (workers.get(name, 1),)
        ]


def limiting(uses: list[StageUse]) -> StageUse:
    """Return the stage that limits: the busiest, relative to its workers."""
    return max(uses, key=lambda use: use.busy)
