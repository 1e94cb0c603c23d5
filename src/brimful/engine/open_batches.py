"""Open batches: what images join, and the slots that they are written into."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from brimful.engine.batcher import Batch, Batcher
from brimful.engine.slots import SlotPool
from brimful.engine.stats import StageStats
from brimful.engine.work import Work
from brimful.runtimes.runtime import Slot
from brimful.sources.image import Pixels
from brimful.spec import Size
from brimful.vision.encoded import Encoded
from brimful.vision.picture import Picture
from brimful.vision.surface import Surface

Ready = tuple[Work, Pixels | Encoded | Picture | Surface]
"""An image that knows its geometry, and what is to be written of it."""


@dataclass(slots=True)
class Joined:
    """Images that joined a batch and are still to be written.

    Attributes:
        batch: What they joined.
        slot: Its buffers.
        position: Where the first one goes; the others follow.
        images: The images.
    """

    batch: Batch[Work]
    slot: Slot
    position: int
    images: list[Ready]


class OpenBatches:
    """The batcher's open batches with their slots, and the waiting for a free slot."""

    def __init__(
        self,
        batcher: Batcher[Work],
        slots: SlotPool,
        lock: threading.Lock,
        stats: StageStats,
        *,
        on_open: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start without a batch.

        Args:
            batcher: Decides who may join what.
            slots: The slots there are.
            lock: The pipeline's.
            stats: Told how long slots took to make.
            on_open: Told, with the lock held, when the next batch may be due sooner than before.
            clock: Seconds, monotonic.
        """
        self._batcher = batcher
        self._slots = slots
        self._lock = lock
        self._stats = stats
        self._on_open = on_open
        self._clock = clock
        self._freed = threading.Condition(lock)
        self._slot_of: dict[int, Slot] = {}
        self._allocating: set[Size] = set()
        self._closed = False

    @property
    def freed(self) -> threading.Condition:
        """Notified when a slot is free, or a batch has been opened."""
        return self._freed

    def join(self, waiting: dict[Size, list[Ready]]) -> list[Joined]:
        """Let images join the batches of their canvases.

        Whatever can join does so at once, and the caller must write it before it asks again: a
        batch does not go while one of its members is unwritten. Only when nothing can join does
        this wait for a free slot, or make one.

        Args:
            waiting: Images by canvas, at least one; those that joined are taken out of it.

        Returns:
            What joined, at least one image; nothing when closed.
        """
        while True:
            with self._lock:
                while True:
                    if self._closed:
                        return []
                    joined = self._join_open(waiting)
                    if joined:
                        return joined
                    canvas = self._reserve(waiting)
                    if canvas is not None:
                        break
                    self._freed.wait()
            self._allocate(canvas)

    def take(self, batch: Batch[Work]) -> Slot:
        """Return the slot of a batch that goes, with the lock held."""
        return self._slot_of.pop(id(batch))

    def release(self, slot: Slot) -> None:
        """Give a slot back, with the lock held."""
        self._slots.release(slot)
        self._freed.notify_all()  # the first to wake may need none

    def close(self) -> None:
        """Wake everyone up for good, with the lock held."""
        self._closed = True
        self._freed.notify_all()

    def clear(self) -> None:
        """Drop every slot, with the lock held."""
        self._slots.clear()
        self._slot_of.clear()

    def _join_open(self, waiting: dict[Size, list[Ready]]) -> list[Joined]:
        """Let images join what is open, or what a free slot of their canvas opens."""
        joined: list[Joined] = []
        for canvas in list(waiting):
            while (images := waiting.get(canvas)) and (batch := self._batch_for(canvas)):
                entering = images[: batch.room]
                works = [work for work, _ in entering]
                deadlines = [work.deadline for work in works if work.deadline is not None]
                position = self._batcher.join_all(
                    batch, works, self._clock(), min(deadlines, default=None)
                )
                if position == 0 or deadlines:
                    self._on_open()
                joined.append(Joined(batch, self._slot_of[id(batch)], position, entering))
                waiting[canvas] = images[len(entering) :]
                if not waiting[canvas]:
                    del waiting[canvas]
        return joined

    def _batch_for(self, canvas: Size) -> Batch[Work] | None:
        batch = self._batcher.joinable(canvas)
        if batch is None and canvas not in self._allocating:
            slot = self._slots.reuse(canvas, self._batcher.policy.capacity(canvas))
            if slot is not None:
                batch = self._adopt(canvas, slot)
        return batch

    def _reserve(self, waiting: dict[Size, list[Ready]]) -> Size | None:
        """Reserve the place of a slot that has to be made; return its canvas."""
        for canvas in waiting:
            if canvas in self._allocating:
                continue
            reserved, _ = self._slots.reserve(canvas, self._batcher.policy.capacity(canvas))
            if reserved:  # without a slot: one that could be reused has been
                self._allocating.add(canvas)
                return canvas
        return None

    def _allocate(self, canvas: Size) -> None:
        """Make the slot that was reserved; that may compile for seconds."""
        slot = None
        started = time.perf_counter()
        try:
            slot = self._slots.allocate(canvas, self._batcher.policy.capacity(canvas))
        finally:
            self._stats.add("compile", time.perf_counter() - started)
            with self._lock:
                self._allocating.discard(canvas)
                if slot is None:
                    self._slots.release(None)
                    self._freed.notify_all()
                else:
                    self._adopt(canvas, slot)

    def _adopt(self, canvas: Size, slot: Slot) -> Batch[Work]:
        batch = self._batcher.open(canvas, self._clock(), slot.capacity)
        self._slot_of[id(batch)] = slot
        self._freed.notify_all()  # who waits for a slot of this canvas may join
        return batch
