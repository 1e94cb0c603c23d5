"""A scheduler on the debug runtime's slots with a clock of plain numbers, and no thread of its own.

`World` plays the workers and the device: it takes requests, lets them join, writes them, and lands
and settles what was launched, one step at a time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress
from unittest import mock

import numpy as np

from brimful.engine.batcher import Batcher, FixedLimits
from brimful.engine.batches import Joined, Ready, RunningBatch
from brimful.engine.cost_model import CostModel
from brimful.engine.fair_queue import FairQueue
from brimful.engine.request import Request, State
from brimful.engine.room import Room
from brimful.engine.scheduler import Scheduler
from brimful.engine.slots import SlotPool
from brimful.engine.stats import StageStats
from brimful.runtimes.debug import DebugSlot
from brimful.runtimes.runtime import HostSlot
from brimful.sources.image import SourceImage
from brimful.spec import Size
from brimful.vision.canvas import CanvasPolicy

SIDE = 64
POLICY = CanvasPolicy(mode="exact", imgsz=(SIDE, SIDE))


class WouldWaitError(Exception):
    """A call would have waited for another thread."""


@contextmanager
def no_waiting() -> Iterator[None]:
    """Have whatever would wait on a condition, on this thread, raise instead."""
    this, wait = threading.get_ident(), threading.Condition.wait

    def refuse(condition, timeout=None):
        if threading.get_ident() == this:
            raise WouldWaitError
        return wait(condition, timeout)

    with mock.patch.object(threading.Condition, "wait", refuse):
        yield


class Answers:
    """What the responders of all requests want: everything, until they are told otherwise."""

    def __init__(self) -> None:
        self.wants = True
        self.unwanted: set[int] = set()


class Answer:
    """The responder of one request, as a future is."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def wanted(self, request: Request) -> bool:
        return self._answers.wants and request.number not in self._answers.unwanted

    def settle(self, requests, results) -> None:
        raise AssertionError("the scheduler tells nobody")

    def fail(self, requests, error) -> None:
        raise AssertionError("the scheduler tells nobody")


class FakeRuntime:
    """How many forwards a device takes, and the debug runtime's slots."""

    def __init__(self, *, concurrency: int, partial_batches_below: int, prefetch: int) -> None:
        self.concurrency, self.prefetch = concurrency, prefetch
        self.partial_batches_below = partial_batches_below
        self.allocated = 0
        self.error: BaseException | None = None

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> HostSlot:
        if self.error is not None:
            raise self.error
        self.allocated += 1
        return DebugSlot(canvas, np.zeros((capacity, *canvas, 3), np.uint8))


class Payload:
    """Stands for an image of a size."""

    def __init__(self, size: Size) -> None:
        self.size = size


class World:
    """The scheduler, its clock, and everybody around it."""

    def __init__(
        self,
        *,
        queue: int = 1000,
        slots: int = 4,
        batch: int = 4,
        concurrency: int = 1,
        partial_batches_below: int | None = None,
        prefetch: int = 1,
        queue_bytes: int = 10**6,
        max_delay_ms: float = 1000.0,
    ) -> None:
        self.now = 100.0
        self.runtime = FakeRuntime(
            concurrency=concurrency,
            partial_batches_below=concurrency
            if partial_batches_below is None
            else partial_batches_below,
            prefetch=prefetch,
        )
        self.stats = StageStats()
        self.costs = CostModel()
        limits = FixedLimits(max_batch=batch, max_delay_ms=max_delay_ms)
        self.scheduler = Scheduler(
            self.runtime,  # type: ignore[arg-type]
            FairQueue(queue, SIDE * SIDE),
            Batcher(limits, self.costs),
            SlotPool(self.runtime, slots),  # type: ignore[arg-type]
            Room(queue_bytes),
            self.stats,
            clock=lambda: self.now,
        )
        self.answers = Answers()
        self.outcomes: Counter[Request] = Counter()
        self._number = 0

    def requests(
        self,
        count: int,
        source: Hashable = "s",
        *,
        height: int = SIDE,
        width: int = SIDE,
        **options,
    ) -> list[Request]:
        made = []
        for _ in range(count):
            image = SourceImage(index=self._number, key="x", payload=Payload((height, width)))
            made.append(
                Request(
                    image,
                    Answer(self.answers),
                    source,
                    self._number,
                    cost=SIDE * SIDE,
                    **options,
                )
            )
            self._number += 1
        return made

    def admit(self, count: int, source: Hashable = "s", **options) -> list[Request]:
        """Admit requests for all of which there must be room."""
        made = self.requests(count, source, **options)
        assert self.scheduler.admit(made, wait=False) == (count, [])
        return made

    def take(self, limit: int = 100, sharers: int = 1) -> list[Request]:
        """Take what is wanted; finish what is not."""
        with no_waiting():
            taken = self.scheduler.take(limit, sharers)
        assert taken is not None
        wanted, dropped = taken
        self.finish(dropped)
        return wanted

    def requests_taken(self, count: int, source: Hashable = "s", **options) -> list[Request]:
        """Admit requests and take them."""
        self.admit(count, source, **options)
        return self.take()

    def waiting(self, requests: list[Request]) -> dict[Size, list[Ready]]:
        """Place requests, as a decode worker does."""
        ready: dict[Size, list[Ready]] = {}
        for request in requests:
            request.geometry = POLICY.place(request.image.payload.size)
            image = np.full((1, 1, 3), request.number % 256, np.uint8)
            ready.setdefault(request.geometry.canvas, []).append((request, image))
        return ready

    def join(self, requests: list[Request]) -> list[Joined]:
        """Have all of them join."""
        waiting, joined = self.waiting(requests), []
        with no_waiting():
            while waiting:
                joined += self.scheduler.join(waiting)
        for part in joined:
            for position, (_, image) in enumerate(part.images, part.position):
                part.slot.inputs[position] = image
        return joined

    def launch(self, joined: list[Joined]) -> list[RunningBatch]:
        return self.settle_dropped(self.scheduler.written(joined))

    def settle_dropped(self, batches: list[RunningBatch]) -> list[RunningBatch]:
        """Do as the pipeline does with what is not run."""
        for running in batches:
            self.finish(running.dropped)
            if not running.members:
                self.scheduler.release(running.slot)
        return [running for running in batches if running.members]

    def run(self, count: int, source: Hashable = "s", **options) -> list[RunningBatch]:
        """Bring requests as far as they come; return the batches that go."""
        self.admit(count, source, **options)
        return self.launch(self.join(self.take()))

    def land(self, running: RunningBatch, seconds: float | None = None) -> list[RunningBatch]:
        """Have a forward succeed; return the batches that go now."""
        assert self.scheduler.landed(running, seconds, good=True)
        going = self.settle_dropped(self.scheduler.launch())
        self.finish(running.members)
        self.scheduler.release(running.slot)
        return going

    def finish(self, requests: list[Request]) -> None:
        self.outcomes.update(self.scheduler.finish(requests))


def numbers(requests: list[Request]) -> list[int]:
    return [request.number for request in requests]


class Play:
    """Steps in any order, as threads would take them; a step that nothing is there for does none.

    So does one that would have to wait for another.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.admitted: list[Request] = []
        self.taken: list[Request] = []
        self.joined: list[Joined] = []
        self.running: list[RunningBatch] = []

    def admit(self, count, source, width, wait, line, nbytes) -> None:
        deadline = None if wait is None else self.world.now + wait
        made = self.world.requests(
            count, source, width=width, deadline=deadline, line=line, nbytes=nbytes
        )
        entered, replaced = self.world.scheduler.admit(made, wait=False)
        self.admitted += made[:entered]
        self.world.outcomes.update(replaced)

    def take(self, limit: int, sharers: int) -> None:
        with suppress(WouldWaitError):
            self.taken += self.world.take(limit, sharers)

    def join(self, number: int) -> None:
        if self.taken:
            request = self.taken[number % len(self.taken)]
            with suppress(WouldWaitError):
                self.joined += self.world.join([request])
                self.taken.remove(request)

    def spoil(self, number: int) -> None:
        """Find that an image cannot be decoded, or written."""
        some = [*self.taken, *(r for part in self.joined for r, _ in part.images)]
        if some:
            request = some[number % len(some)]
            if request in self.taken:
                self.taken.remove(request)
            self.world.finish([request])

    def write(self, number: int) -> None:
        if self.joined:
            part = self.joined.pop(number % len(self.joined))
            self._go(self.world.scheduler.written([part]))

    def land(self, number: int, good: bool) -> None:
        if self.running:
            running = self.running.pop(number % len(self.running))
            rows = running.positions or range(len(running.members))
            seen = [int(running.slot.inputs[row, 0, 0, 0]) for row in rows]
            assert seen == [n % 256 for n in numbers(running.members)]
            assert self.world.scheduler.landed(running, None, good=good)
            self._go(self.world.scheduler.launch())
            self.world.finish(running.members)
            self.world.scheduler.release(running.slot)

    def cancel(self, number: int) -> None:
        self.world.answers.unwanted.add(number)

    def tick(self, seconds: float) -> None:
        self.world.now += seconds
        self._go(self.world.scheduler.launch())

    def to_the_end(self) -> None:
        """Go on until nothing is left; each round brings something further."""
        load = self.world.scheduler.load
        while load().live or self.joined:  # a bad image is told before its row is given up
            before = load(), len(self.joined), len(self.running), self.world.outcomes.total()
            self.take(9, 1)
            for number in range(len(self.taken)):
                self.join(number)
            self.write(0)
            self.land(0, True)
            after = load(), len(self.joined), len(self.running), self.world.outcomes.total()
            assert after != before, "nothing can go on"

    def _go(self, batches: list[RunningBatch]) -> None:
        for running in batches:
            assert all(request.state is not State.DONE for request in running.members)
        self.running += self.world.settle_dropped(batches)
