"""The batcher: which images run together, and when a batch goes. Pure policy.

No thread, no lock, no sleep, no clock of its own: every call is told the time. One canvas has at
most one open batch. A batch goes

- when it is full, by images or by pixels, or overdue, as soon as the device takes one more ahead;
- when the device is idle, at once, full or not: waiting would only waste the device. How many
  forwards it may run and still be called idle, it says itself (`Runtime.eager`).

So batches grow by themselves under load, and a lone image on an idle device never waits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from brimful.errors import UsageError
from brimful.spec import Size

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """What closes a batch.

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
            raise UsageError(f"max_pixels must be at least 1, not {self.max_pixels}")

    def capacity(self, canvas: Size) -> int:
        """Return how many images of a canvas a batch may hold."""
        if self.max_pixels is None:
            return self.max_batch
        return max(1, min(self.max_batch, self.max_pixels // (canvas[0] * canvas[1])))


@dataclass(slots=True)
class Batch(Generic[T]):
    """Images of one canvas that run together.

    Attributes:
        canvas: (height, width) of all of them.
        capacity: Images it holds at most.
        opened: When its first image joined, in seconds.
        members: The images, in order of joining; the position is the row in the slot.
        deadline: The earliest deadline among them, in seconds.
        unwritten: Members whose pixels are still being written.
    """

    canvas: Size
    capacity: int
    opened: float
    members: list[T] = field(default_factory=list)
    deadline: float = float("inf")
    unwritten: int = 0

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

    def __init__(self, policy: BatchPolicy) -> None:
        """Start without any batch."""
        self.policy = policy
        self._open: dict[Size, Batch[T]] = {}
        self._full: list[Batch[T]] = []
        self._seconds_per_forward = 0.0
        self._last_canvas: Size | None = None

    def __len__(self) -> int:
        """Return the number of images waiting in batches."""
        return sum(len(batch.members) for batch in self._waiting())

    def joinable(self, canvas: Size) -> Batch[T] | None:
        """Return the open batch of a canvas, if it has one."""
        return self._open.get(canvas)

    def open(self, canvas: Size, now: float, capacity: int | None = None) -> Batch[T]:
        """Open a batch for a canvas that has none.

        Args:
            canvas: (height, width).
            now: The time, in seconds.
            capacity: What the slot holds, when less than the policy allows.
        """
        if canvas in self._open:
            raise ValueError(f"canvas {canvas} has an open batch already")
        allowed = self.policy.capacity(canvas)
        batch: Batch[T] = Batch(canvas, min(allowed, capacity or allowed), now)
        self._open[canvas] = batch
        return batch

    def join(self, batch: Batch[T], member: T, now: float, deadline: float | None = None) -> int:
        """Add an image to an open batch; return its row in the slot.

        The caller counts `batch.unwritten` down when the pixels are there.
        """
        return self.join_all(batch, (member,), now, deadline)

    def join_all(
        self, batch: Batch[T], members: Sequence[T], now: float, deadline: float | None = None
    ) -> int:
        """Add images to an open batch that has room for them; return the first one's row.

        Args:
            batch: What they join.
            members: The images; they get consecutive rows.
            now: The time, in seconds.
            deadline: The earliest of theirs, in seconds, if any has one.
        """
        position = len(batch.members)
        if position + len(members) > batch.capacity:
            raise ValueError(f"{len(members)} images do not fit, only {batch.room} do")
        if not position:
            batch.opened = now  # the delay counts from the first image, not from the slot
        batch.members.extend(members)
        batch.unwritten += len(members)
        if deadline is not None:
            batch.deadline = min(batch.deadline, deadline)
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
        ready = [b for b in self._waiting() if b.members and not b.unwritten]
        while ready and len(going) < ahead:
            batch = min(ready, key=lambda batch: self._urgency(batch, now))
            ready.remove(batch)
            if len(going) < idle or batch.full or self._overdue(batch, now):
                self._remove(batch)
                going.append(batch)
                self._last_canvas = batch.canvas
        return going

    def next_due(self) -> float | None:
        """Return when the next batch will be overdue, in seconds, or None."""
        times = [self._overdue_at(batch) for batch in self._open.values() if batch.members]
        return min(times, default=None)

    def observe(self, seconds: float) -> None:
        """Learn how long a forward takes, for deadlines: a moving average."""
        known = self._seconds_per_forward
        self._seconds_per_forward = seconds if not known else 0.8 * known + 0.2 * seconds

    def clear(self) -> list[T]:
        """Forget every batch; return the images that were waiting."""
        waiting = [member for batch in self._waiting() for member in batch.members]
        self._open.clear()
        self._full.clear()
        return waiting

    def _waiting(self) -> Iterator[Batch[T]]:
        yield from self._full
        yield from self._open.values()

    def _remove(self, batch: Batch[T]) -> None:
        if self._open.get(batch.canvas) is batch:
            del self._open[batch.canvas]
        else:
            self._full = [other for other in self._full if other is not batch]

    def _urgency(self, batch: Batch[T], now: float) -> tuple[bool, bool, float]:
        """Overdue ones first, then the canvas that ran last, then the one due first.

        A network that runs the same canvas again finds its weights in the cache.
        """
        overdue = self._overdue(batch, now)
        elsewhere = not overdue and batch.canvas != self._last_canvas
        return not overdue, elsewhere, self._overdue_at(batch)

    def _overdue_at(self, batch: Batch[T]) -> float:
        delayed = batch.opened + self.policy.max_delay_ms / 1000
        return min(delayed, batch.deadline - self._seconds_per_forward)

    def _overdue(self, batch: Batch[T], now: float) -> bool:
        return now >= self._overdue_at(batch)
