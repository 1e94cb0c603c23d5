"""The batcher: which images run together, and when a batch goes. Pure policy.

No thread, no lock, no sleep, no clock of its own: every call is told the time. One canvas has at
most one open batch. A batch goes

- when it is full, by images or by pixels, or overdue, as soon as the device takes one more ahead;
- when the device is idle, at once, full or not: waiting would only waste the device. How many
  forwards it may run and still be called idle, it says itself (`Runtime.partial_batches_below`).

So batches grow by themselves under load, and a lone image on an idle device never waits. Of several
batches that may go, the one goes whose sources have waited longest since their last launch. One
with an image of a source that has launched nothing yet goes as it is before a full batch of others.
So a source that brings thousands of images delays another one's image by no more than what is on
the device already.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from brimful.engine.cost_model import CostModel
from brimful.errors import UsageError
from brimful.spec import Size


class Batched(Protocol):
    """What the batcher asks of a member."""

    source: Hashable
    priority: int
    deadline: float | None


T = TypeVar("T", bound=Batched)


@dataclass(frozen=True, slots=True)
class BatchLimit:
    """What closes a batch of a canvas.

    Attributes:
        images: Images at most.
        delay_s: A batch is overdue so many seconds after its first image.
    """

    images: int
    delay_s: float


class BatchControl(Protocol):
    """Decides the limits of each batch when it opens."""

    def limit(self, canvas: Size, now: float) -> BatchLimit:
        """Return the limits of a batch of a canvas that opens now."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedLimits:
    """Limits that do not change.

    Attributes:
        max_batch: Images at most.
        max_delay_ms: A batch is overdue this long after its first image, in milliseconds.
        max_pixels: Canvas pixels at most, or None; a single image always fits.
    """

    max_batch: int
    max_delay_ms: float = 300.0
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        """Refuse impossible limits."""
        if self.max_batch < 1:
            raise UsageError(f"batch must be at least 1, not {self.max_batch}")
        if self.max_delay_ms < 0:
            raise UsageError(f"max_delay_ms must not be negative, and is {self.max_delay_ms}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise UsageError(f"max_batch_pixels must be at least 1, not {self.max_pixels}")

    def limit(self, canvas: Size, now: float) -> BatchLimit:
        """Return the limits of a batch of a canvas."""
        images = self.max_batch
        if self.max_pixels is not None:
            images = max(1, min(images, self.max_pixels // (canvas[0] * canvas[1])))
        return BatchLimit(images, self.max_delay_ms / 1000)


@dataclass(slots=True, eq=False)
class Batch(Generic[T]):
    """Images of one canvas that run together.

    Attributes:
        canvas: (height, width) of all of them.
        capacity: Images it holds at most.
        delay_s: It is overdue so many seconds after its first image.
        opened: When its first image joined, in seconds.
        members: The images, in order of joining; the position is the row in the slot. None are left
            once it is launched.
        deadline: The earliest deadline among them, in seconds.
        priority: The highest among them.
        sources: Whom they come from.
        unwritten: Members whose pixels are still being written.
        launched: When it was submitted to the device, if it was.
        landed: When its forward ended, if it has.
    """

    canvas: Size
    capacity: int
    delay_s: float
    opened: float
    members: list[T] = field(default_factory=list)
    deadline: float = float("inf")
    priority: int = 0
    sources: set[Hashable] = field(default_factory=set)
    unwritten: int = 0
    launched: float | None = None
    landed: float | None = None

    @property
    def room(self) -> int:
        """Images that may still join."""
        return self.capacity - len(self.members)

    @property
    def full(self) -> bool:
        """Whether no more images may join."""
        return len(self.members) >= self.capacity


class Batcher(Generic[T]):
    """Open batches, and the decision which of them go."""

    def __init__(self, control: BatchControl, costs: CostModel | None = None) -> None:
        """Start without any batch.

        Args:
            control: Decides the limits of batches.
            costs: How long forwards take, for deadlines.
        """
        self.control = control
        self.costs = costs or CostModel()
        self._open: dict[Size, Batch[T]] = {}
        self._full: list[Batch[T]] = []
        self._launches = 0
        self._launched: dict[Hashable, int] = {}
        self._last_canvas: Size | None = None

    def __len__(self) -> int:
        """Return the number of images waiting in batches."""
        return sum(len(batch.members) for batch in self.waiting())

    @property
    def room(self) -> int:
        """Images that may still join the open batches."""
        return sum(batch.room for batch in self._open.values())

    def waiting(self) -> Iterator[Batch[T]]:
        """Yield the batches that have not gone."""
        yield from self._full
        yield from self._open.values()

    def joinable(self, canvas: Size) -> Batch[T] | None:
        """Return the open batch of a canvas, if it has one."""
        return self._open.get(canvas)

    def open(self, canvas: Size, now: float, capacity: int | None = None) -> Batch[T]:
        """Open a batch for a canvas that has none.

        Args:
            canvas: (height, width).
            now: The time, in seconds.
            capacity: What the slot holds, when less than the control allows.
        """
        if canvas in self._open:
            raise ValueError(f"canvas {canvas} has an open batch already")
        limit = self.control.limit(canvas, now)
        images = min(limit.images, capacity or limit.images)
        batch: Batch[T] = Batch(canvas, images, limit.delay_s, now)
        self._open[canvas] = batch
        return batch

    def join(self, batch: Batch[T], members: Sequence[T], now: float) -> int:
        """Add images to an open batch that has room for them.

        The caller counts `batch.unwritten` down when the pixels are there.

        Args:
            batch: What they join.
            members: The images; they get consecutive rows.
            now: The time, in seconds.

        Returns:
            The first one's row in the slot.
        """
        position = len(batch.members)
        if position + len(members) > batch.capacity:
            raise ValueError(f"{len(members)} images do not fit, only {batch.room} do")
        if not position:
            batch.opened = now  # the delay counts from the first image, not from the slot
            batch.priority = members[0].priority
        batch.members.extend(members)
        batch.unwritten += len(members)
        for member in members:
            batch.sources.add(member.source)
            if member.priority > batch.priority:
                batch.priority = member.priority
            if member.deadline is not None and member.deadline < batch.deadline:
                batch.deadline = member.deadline
        if batch.full:
            del self._open[batch.canvas]
            self._full.append(batch)
        return position

    def due(self, now: float, *, idle: int, ahead: int) -> list[Batch[T]]:
        """Take the batches that go now, most urgent first.

        Args:
            now: The time, in seconds.
            idle: Forwards that the device would start at once with whatever there is.
            ahead: Forwards that may be queued in all, at least `idle`.
        """
        going: list[Batch[T]] = []
        ready = [b for b in self.waiting() if b.members and not b.unwritten]
        while ready and len(going) < ahead:
            batch = min(ready, key=lambda batch: self._urgency(batch, now))
            ready.remove(batch)
            if (
                len(going) < idle
                or self._complete(batch, now)
                or (self._new(batch) and any(self._complete(other, now) for other in ready))
            ):
                self._remove(batch)
                going.append(batch)
                self._note_launch(batch)
        return going

    def next_due(self) -> float | None:
        """Return when the next batch will be overdue, in seconds, or None."""
        times = [self._overdue_at(batch) for batch in self._open.values() if batch.members]
        return min(times, default=None)

    def forget(self, source: Hashable) -> None:
        """Forget when a source launched last: nothing of it is in the engine any more."""
        self._launched.pop(source, None)

    def clear(self) -> list[T]:
        """Forget every batch; return the images that were waiting."""
        waiting = []
        for batch in self.waiting():
            waiting += batch.members
            batch.members = []  # they may refer to it
        self._open.clear()
        self._full.clear()
        return waiting

    def _remove(self, batch: Batch[T]) -> None:
        if self._open.get(batch.canvas) is batch:
            del self._open[batch.canvas]
        else:
            self._full = [other for other in self._full if other is not batch]

    def _note_launch(self, batch: Batch[T]) -> None:
        self._launches += 1
        for source in batch.sources:
            self._launched[source] = self._launches
        self._last_canvas = batch.canvas

    def _urgency(self, batch: Batch[T], now: float) -> tuple[int, bool, int, bool, bool, float]:
        """Order batches: the smallest goes first.

        By priority; then those that a deadline presses; then by how long ago one of their sources
        launched last; then those that are overdue; then the canvas that ran last, whose weights are
        in the cache; then the one due first.
        """
        waited = min((self._launched.get(source, 0) for source in batch.sources), default=0)
        elsewhere = batch.canvas != self._last_canvas
        overdue_at = self._overdue_at(batch)
        return (
            -batch.priority,
            now < self._latest_start(batch),
            waited,
            now < overdue_at,
            now < overdue_at and elsewhere,
            overdue_at,
        )

    def _complete(self, batch: Batch[T], now: float) -> bool:
        """Tell whether a batch is full or overdue."""
        return batch.full or now >= self._overdue_at(batch)

    def _new(self, batch: Batch[T]) -> bool:
        """Tell whether a batch has an image of a source that has launched nothing yet."""
        return any(source not in self._launched for source in batch.sources)

    def _latest_start(self, batch: Batch[T]) -> float:
        """Return when a batch must start to meet its deadline."""
        if batch.deadline == float("inf"):
            return batch.deadline
        return batch.deadline - self.costs.forward_s(batch.canvas, len(batch.members))

    def _overdue_at(self, batch: Batch[T]) -> float:
        return min(batch.opened + batch.delay_s, self._latest_start(batch))
