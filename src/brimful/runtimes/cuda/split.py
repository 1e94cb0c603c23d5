"""DecodeSplit: which images CPU threads decode beside the device's engines. Pure policy.

A batch passes three places that may limit: the engines, the model, and the host that brings
images. The driver's time tells which: it decodes, or waits for a free lane because the model is
slower, or waits for a batch because the host is. Only while the engines limit is it worth a CPU
thread's time to decode for them; the share grows in small steps until something else limits, so it
settles where engines and threads are both full.
"""

from __future__ import annotations

STEP = 0.02
"""Change of the share after a batch."""

MOST = 0.9
"""Largest share: the engines always take part, so that their rate stays known."""

WAITING = 0.1
"""Share of the driver's time, waiting for lanes, above which the model limits."""

IDLE = 0.1
"""Share of the driver's time, waiting for batches, above which the host limits."""

MEMORY = 0.8
"""Weight of the past in the averages: a single batch says little."""


class DecodeSplit:
    """The share of images that CPU threads decode, learnt from the driver's time."""

    def __init__(self) -> None:
        """Start with everything on the device."""
        self.share = 0.0
        self._owed = 0.0
        self._decode = self._wait = self._idle = 0.0

    def to_device(self) -> bool:
        """Whether the next image goes to the device's engines.

        The images for the CPU are spread evenly among the others.
        """
        self._owed += self.share
        if self._owed < 1:
            return True
        self._owed -= 1
        return False

    def observe(self, *, decode_s: float, wait_s: float, idle_s: float) -> None:
        """Learn from a batch.

        Args:
            decode_s: Seconds the driver was decoding it.
            wait_s: Seconds it then waited for a lane.
            idle_s: Seconds it had waited for the batch.
        """
        self._decode = MEMORY * self._decode + (1 - MEMORY) * decode_s
        self._wait = MEMORY * self._wait + (1 - MEMORY) * wait_s
        self._idle = MEMORY * self._idle + (1 - MEMORY) * idle_s
        total = self._decode + self._wait + self._idle
        if total <= 0:
            return
        if self._idle > IDLE * total or self._wait > WAITING * total:
            change = -STEP
        elif self._idle + self._wait < IDLE / 2 * total:
            change = STEP
        else:
            return
        self.share = min(MOST, max(0.0, self.share + change))
