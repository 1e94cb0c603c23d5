"""DecodeBalancer: which images CPU threads decode beside the device. Pure policy.

Whether a CPU thread's help is worth its time can only be told by trying: threads that decode also
hold the interpreter from the driver, and then all is slower although the device has less to do
(benchmarks/NOTES.md). So the share is raised by a step, and stays raised only if more images came
through than before: hill climbing on the rate. It is not tried where the model or the host limits,
which the drivers' waiting tells.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

STEP = 0.05
"""Change of the share at a time."""

MOST = 0.8
"""Largest share: the device always takes part, so that its rate stays known."""

WAITING = 0.2
"""Share of the drivers' time, waiting for a lane or a batch, above which decode does not limit."""

GAIN = 1.025
"""Rate over the rate before, below which a step was not worth it."""

WINDOW_BATCHES = 24
WINDOW_S = 0.3
"""A rate is measured over so many batches and so long at least."""

SETTLING = 8
"""Batches after a change that were, in part, on their way before it."""

HOPELESS = 0.8
"""Rate over the rate before, below which a step is taken back at once..."""

HOPELESS_BATCHES = 6
"""...which so many batches tell."""

PAUSE, LONGEST_PAUSE = 12, 96
"""Windows before an attempt, the first too: it costs, so a short job makes none. The pause doubles
with every attempt that failed."""


class DecodeBalancer:
    """The share of images that CPU threads decode, learnt by trying. Any thread may call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with everything on the device.

        Args:
            clock: Seconds, monotonic.
        """
        self.share = 0.0
        self._owed = 0.0
        self._clock = clock
        self._lock = threading.Lock()
        self._before: float | None = None  # the rate before the step that is being tried
        self._pause = self._paused = PAUSE
        self._skip = SETTLING
        self._restart()

    def to_device(self) -> bool:
        """Whether the next image goes to the device.

        The images for the CPU are spread evenly among the others.
        """
        if not self.share:
            return True
        with self._lock:
            self._owed += self.share
            if self._owed < 1:
                return True
            self._owed -= 1
            return False

    def observe(self, images: int, *, decode_s: float, wait_s: float, idle_s: float) -> None:
        """Learn from a batch.

        Args:
            images: In it.
            decode_s: Seconds its driver was decoding it.
            wait_s: Seconds the driver then waited for a lane.
            idle_s: Seconds the driver had waited for the batch.
        """
        with self._lock:
            if self._skip:
                self._skip -= 1
                if not self._skip:
                    self._restart()
                return
            self._batches += 1
            self._images += images
            self._total += decode_s + wait_s + idle_s
            self._waiting += wait_s + idle_s
            elapsed = self._clock() - self._since
            full = self._batches >= WINDOW_BATCHES and elapsed >= WINDOW_S
            if full or self._hopeless(elapsed):
                self._decide(self._images / elapsed)
                self._restart()

    def _hopeless(self, elapsed: float) -> bool:
        """Whether the step that is being tried does much harm."""
        if self._before is None or self._batches < HOPELESS_BATCHES:
            return False
        return self._images < HOPELESS * self._before * elapsed

    def _restart(self) -> None:
        """Begin a window."""
        self._batches = self._images = 0
        self._total = self._waiting = 0.0
        self._since = self._clock()

    def _decide(self, rate: float) -> None:
        """Keep, raise or lower the share after a window of this rate."""
        if self._before is not None and rate <= GAIN * self._before:
            self._before = None
            self._pause = self._paused = min(LONGEST_PAUSE, 2 * self._pause)
            self._move(-STEP)
            return
        if self._waiting > WAITING * self._total:
            self._before = None
            self._move(-STEP)
            return
        if self._before is not None:
            self._pause = self._paused = PAUSE
        elif self._paused:
            self._paused -= 1
            return
        self._before = rate if self._move(STEP) else None

    def _move(self, change: float) -> bool:
        """Change the share; return whether there was room to."""
        share = round(min(MOST, max(0.0, self.share + change)), 6)
        if share == self.share:
            return False
        self.share = share
        self._skip = SETTLING
        return True
