"""Flights: the batches that are on the device, and since when."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from brimful.engine.batcher import Batch
from brimful.engine.stats import StageStats
from brimful.engine.work import Work
from brimful.runtimes.runtime import Slot


@dataclass(slots=True, eq=False)
class Flight:
    """A batch on its way through the device.

    Attributes:
        batch: Its images.
        slot: Its buffers.
        started: When it was submitted, on the pipeline's clock.
    """

    batch: Batch[Work]
    slot: Slot
    started: float


class Flights:
    """The batches on the device. The lock it is given guards it."""

    def __init__(self, lock: threading.Lock, stats: StageStats) -> None:
        """Start with an idle device.

        Args:
            lock: Held around every call.
            stats: Told how long the device was busy.
        """
        self._stats = stats
        self._flights: dict[int, Flight] = {}
        self._landed = threading.Condition(lock)
        self._busy_since: float | None = None

    def __len__(self) -> int:
        """Return the number of batches on the device."""
        return len(self._flights)

    def launch(self, batch: Batch[Work], slot: Slot, now: float) -> Flight:
        """Note that a batch is about to be submitted."""
        flight = Flight(batch, slot, now)
        self._flights[id(flight)] = flight
        if self._busy_since is None:
            self._busy_since = time.perf_counter()
        return flight

    def land(self, flight: Flight) -> bool:
        """Note that a forward has ended; return False when it was given up before."""
        if self._flights.pop(id(flight), None) is None:
            return False
        if self._busy_since is not None:
            ended = time.perf_counter()
            self._stats.add("forward", ended - self._busy_since)
            self._busy_since = ended if self._flights else None
        if not self._flights:
            self._landed.notify_all()
        return True

    def oldest(self) -> float | None:
        """Return when the flight that lasts longest was submitted, None when there is none."""
        return min((flight.started for flight in self._flights.values()), default=None)

    def give_up(self) -> None:
        """Wait for none of them any more: they hang, or may never have started."""
        self._flights.clear()
        self._landed.notify_all()

    def wait_landed(self, timeout: float) -> None:
        """Wait, with the lock released, until the device is idle."""
        self._landed.wait_for(lambda: not self._flights, timeout)
