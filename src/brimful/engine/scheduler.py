"""Scheduler: all state of a pipeline behind one lock, from admission to the last outcome.

It owns the queue, the batcher, the slots, the batches on the device and every live request. Its
methods are atomic; those that wait say so. It has no thread: decode workers call `take`, `join`
and `written`, whoever starts forwards calls `launch`, runtimes report to `landed`, and whoever
decides an outcome calls `finish` first, which tells whether the outcome was still open.

Workers take an image only when there is room for it in a batch, so that what waits, waits in the
queue, where sources are treated fairly. One slot is kept for sources that have nothing in a batch:
an image of a client beside a job of thousands waits for the forwards on the device and no more.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from brimful.engine.batcher import Batch, Batcher
from brimful.engine.batches import Joined, Load, Ready, RunningBatch, SlotError
from brimful.engine.fair_queue import FairQueue
from brimful.engine.request import Request, State
from brimful.engine.room import Room
from brimful.engine.slots import SlotPool
from brimful.engine.stats import StageStats
from brimful.errors import (
    BrimfulError,
    DeviceFailedError,
    EngineStoppedError,
    RuntimeFailedError,
)
from brimful.runtimes.runtime import OutOfMemoryError, Runtime, Slot
from brimful.spec import Size


class Scheduler:
    """The state of one pipeline. Any thread may call any method."""

    def __init__(
        self,
        runtime: Runtime,
        queue: FairQueue[Request],
        batcher: Batcher[Request],
        slots: SlotPool,
        nbytes: Room,
        stats: StageStats,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with nothing in it.

        Args:
            runtime: Says how many forwards it takes.
            queue: Where images wait for a worker.
            batcher: Decides what runs together, and when.
            slots: The slots there are.
            nbytes: Bytes of images handed over in memory.
            stats: Told how long slots took to make and how long the device was busy.
            clock: Seconds, monotonic.
        """
        self._runtime = runtime
        self._queue = queue
        self._batcher = batcher
        self._slots = slots
        self._nbytes = nbytes
        self._stats = stats
        self._clock = clock
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)  # feeders wait for room
        self._work = threading.Condition(self._lock)  # workers wait for images
        self._freed = threading.Condition(self._lock)  # workers wait for a slot
        self._timer = threading.Condition(self._lock)  # the clock waits for what time makes due
        self._quiet = threading.Condition(self._lock)  # for an idle device, or no live request
        self._live: set[Request] = set()
        self._preparing = 0
        self._in_batches: dict[Hashable, int] = {}
        self._slot_of: dict[int, Slot] = {}
        self._allocating: set[Size] = set()
        self._running: dict[int, RunningBatch] = {}
        self._busy_since: float | None = None
        self._last_landing = float("-inf")
        self._draining = False
        self._error: BrimfulError | None = None
        self._kept = 1 if slots.limit > 2 else 0
        self._per_slot = batcher.control.limit((1, queue.quantum), 0.0).images

    @property
    def error(self) -> BrimfulError | None:
        """Why it was stopped, or None."""
        return self._error

    @property
    def draining(self) -> bool:
        """Whether it admits nothing any more."""
        return self._draining

    def load(self) -> Load:
        """Return how many requests and batches are where."""
        with self._lock:
            return Load(
                live=len(self._live),
                waiting=len(self._queue),
                preparing=self._preparing,
                batched=len(self._batcher),
                running=len(self._running),
                slots=self._slots.busy,
                nbytes=self._nbytes.total,
            )

    # Admission --------------------------------------------------------------------------------

    def admit(self, requests: Sequence[Request], *, wait: bool) -> tuple[int, list[Request]]:
        """Take requests of one responder in, which share source, priority and deadline.

        Args:
            requests: The requests.
            wait: Wait for room for all of them, no longer than until their deadline.

        Returns:
            How many were taken in, the first ones; fewer than all without `wait`, once the deadline
            has passed, while draining, when nobody wants them any more, or when it is stopped
            meanwhile. And those that they replaced (line policy `newest`), whose outcome is
            decided.

        Raises:
            EngineStoppedError: It was stopped before.
            DeviceFailedError: It was stopped because its device is broken.
        """
        first, admitted = requests[0], 0
        with self._lock:
            while True:
                if self._error is not None:
                    if admitted:
                        return admitted, []
                    raise _again(self._error) from self._error
                if self._draining or not first.responder.wanted(first):
                    return admitted, []
                if first.line == "newest" and self._queue.waits(first.source, first.priority):
                    return self._replace(requests)
                admitted += self._offer(requests[admitted:] if admitted else requests)
                if admitted == len(requests) or not wait:
                    return admitted, []
                left = None if first.deadline is None else first.deadline - self._clock()
                if left is not None and left <= 0:
                    return admitted, []
                self._room.wait(left)

    def wake_feeders(self) -> None:
        """Let whoever waits for room look whether its requests are still wanted."""
        with self._lock:
            self._room.notify_all()

    def _offer(self, requests: Sequence[Request]) -> int:
        source, fitting = requests[0].source, len(requests)
        if any(request.nbytes for request in requests):
            fitting = 0
            for request in requests[: self._queue.room(source)]:
                if not self._nbytes.fits(source, request.nbytes):
                    break
                self._nbytes.take(source, request.nbytes)
                fitting += 1
        entering = self._queue.offer(requests[:fitting]) if fitting else 0
        if entering:
            self._enter(requests[:entering])
        return entering

    def _replace(self, requests: Sequence[Request]) -> tuple[int, list[Request]]:
        replaced: list[Request] = []
        for request in requests:
            self._nbytes.take(request.source, request.nbytes)
            replaced += self._queue.replace(request)
            self._enter((request,))
        return len(requests), self._finish(replaced)

    def _enter(self, requests: Sequence[Request]) -> None:
        now = self._clock()
        for request in requests:
            request.arrived = now
        self._live.update(requests)
        free, kept = self._free_rows()
        if free > kept or (free > 0 and requests[0].source not in self._in_batches):
            self._work.notify(len(requests))  # a worker that may take none is left asleep

    # Decode -----------------------------------------------------------------------------------

    def take(self, limit: int, sharers: int = 1) -> tuple[list[Request], list[Request]] | None:
        """Wait for requests that there is room for in a batch.

        Args:
            limit: Requests at most.
            sharers: Workers that share what waits: while it is less than all of them could take,
                each takes its share.

        Returns:
            Requests to decode and requests to drop, at least one; None when stopped.
        """
        with self._lock:
            while self._error is None:
                taken = self._take(limit, sharers)
                if taken:
                    self._room.notify_all()
                    return self._sort_out(taken)
                self._work.wait()
            return None

    def _take(self, limit: int, sharers: int) -> list[Request]:
        share = min(limit, -(-len(self._queue) // sharers))
        if not share:
            return []
        free, kept = self._free_rows()
        if free > kept:
            return self._queue.take(min(share, free - kept))
        if free > 0:
            return self._queue.take(1, lambda source: source not in self._in_batches)
        return []

    def _free_rows(self) -> tuple[int, int]:
        """Return how many more images batches have room for, and how many rows of it are kept.

        The last slot is kept for sources that have nothing in a batch.
        """
        left = self._slots.left
        free = left * self._per_slot + self._batcher.room - self._preparing
        return free, min(self._kept, left) * self._per_slot

    def _wake_workers(self) -> None:
        """Let workers look for images: there is more room for them."""
        if len(self._queue):
            self._work.notify_all()

    def _sort_out(self, taken: list[Request]) -> tuple[list[Request], list[Request]]:
        """Tell requests to decode from those that nobody wants or that are too late."""
        now = self._clock()
        for request in taken:
            request.state = State.TAKEN
            request.taken = now
        self._preparing += len(taken)
        dropped = _unwanted(taken, now)
        if dropped:
            gone = set(dropped)
            taken = [request for request in taken if request not in gone]
        return taken, dropped

    def join(self, waiting: dict[Size, list[Ready]]) -> list[Joined]:
        """Let requests join the batches of their canvases.

        Whatever can join does so at once, and the caller must write it before it asks again: a
        batch does not go while one of its members is unwritten. Only when nothing can join does
        this wait for a free slot, or make one.

        Args:
            waiting: Requests by canvas, at least one; those that joined are taken out of it.

        Returns:
            What joined, at least one request; nothing when stopped.

        Raises:
            SlotError: There is no memory for a slot of one of the canvases.
        """
        while True:
            with self._lock:
                while True:
                    if self._error is not None:
                        return []
                    joined = self._join_open(waiting)
                    if joined:
                        return joined
                    canvas = self._reserve(waiting)
                    if canvas is not None:
                        break
                    self._freed.wait()
            self._allocate(canvas)

    def _join_open(self, waiting: dict[Size, list[Ready]]) -> list[Joined]:
        """Let requests join what is open, or what a free slot of their canvas opens."""
        joined: list[Joined] = []
        for canvas in list(waiting):
            while (images := waiting.get(canvas)) and (batch := self._batch_for(canvas, images)):
                entering = images[: batch.room]
                before = batch.deadline
                requests = [request for request, _ in entering]
                position = self._batcher.join(batch, requests, self._clock())
                self._note_joined(batch, requests)
                if position == 0 or batch.deadline < before:
                    self._timer.notify()
                joined.append(Joined(batch, self._slot_of[id(batch)], position, entering))
                waiting[canvas] = images[len(entering) :]
                if not waiting[canvas]:
                    del waiting[canvas]
        return joined

    def _note_joined(self, batch: Batch[Request], requests: Sequence[Request]) -> None:
        for request in requests:
            request.state = State.JOINED
            request.batch = batch
        in_batches = self._in_batches
        for source, count in _counts(requests).items():
            in_batches[source] = in_batches.get(source, 0) + count
        self._preparing -= len(requests)
        if self._queue.contended:  # a lone source owes nothing to anybody
            pixels = batch.canvas[0] * batch.canvas[1]
            for request in requests:
                if request.cost != pixels:
                    self._queue.charge(request.source, request.priority, pixels - request.cost)
                    request.cost = pixels

    def _batch_for(self, canvas: Size, images: Sequence[Ready]) -> Batch[Request] | None:
        batch = self._batcher.joinable(canvas)
        if batch is None and canvas not in self._allocating and self._may_open(images):
            limit = self._batcher.control.limit(canvas, self._clock())
            slot = self._slots.reuse(canvas, limit.images)
            if slot is not None:
                batch = self._adopt(canvas, slot)
        return batch

    def _may_open(self, images: Sequence[Ready]) -> bool:
        """Tell whether a slot may be taken: the last one is for who has nothing in a batch."""
        if self._slots.left > self._kept:
            return True
        return any(request.source not in self._in_batches for request, _ in images)

    def _reserve(self, waiting: dict[Size, list[Ready]]) -> Size | None:
        """Reserve the place of a slot that has to be made; return its canvas."""
        for canvas, images in waiting.items():
            if canvas in self._allocating or not self._may_open(images):
                continue
            if self._slots.reserve():
                self._allocating.add(canvas)
                return canvas
        return None

    def _allocate(self, canvas: Size) -> None:
        """Make the slot that was reserved; that may compile for seconds."""
        slot = None
        started = time.perf_counter()
        try:
            limit = self._batcher.control.limit(canvas, self._clock())
            slot = self._slots.allocate(canvas, limit.images)
        except (OutOfMemoryError, MemoryError) as error:
            raise SlotError(canvas, error) from error
        finally:
            self._stats.add("compile", time.perf_counter() - started)
            with self._lock:
                self._allocating.discard(canvas)
                if slot is None:
                    self._slots.release(None)
                    self._freed.notify_all()
                    self._wake_workers()
                elif self._error is None:
                    self._adopt(canvas, slot)

    def _adopt(self, canvas: Size, slot: Slot) -> Batch[Request]:
        batch = self._batcher.open(canvas, self._clock(), slot.capacity)
        self._slot_of[id(batch)] = slot
        self._freed.notify_all()  # who waits for a slot of this canvas may join
        if self._slots.left < self._kept:  # it was the last one; its other rows are for anybody
            self._wake_workers()
        return batch

    # Device -----------------------------------------------------------------------------------

    def written(self, joined: Sequence[Joined]) -> list[RunningBatch]:
        """Count requests that were written; return the batches that go now, as `launch` does."""
        with self._lock:
            for part in joined:
                part.batch.unwritten -= len(part.images)
            return self._launch()

    def launch(self) -> list[RunningBatch]:
        """Take the batches that go now; the caller submits them and settles what they dropped.

        One whose members were all dropped has none: its slot is to be released.
        """
        with self._lock:
            return self._launch()

    def _launch(self) -> list[RunningBatch]:
        going: list[RunningBatch] = []
        now = self._clock()
        while self._error is None:
            running = len(self._running)
            runtime = self._runtime
            idle = max(0, runtime.partial_batches_below - running)
            # More than run, so that the device finds the next without asking.
            ahead = max(0, runtime.concurrency + runtime.prefetch - running)
            batches = self._batcher.due(now, idle=idle, ahead=ahead)
            started = [self._start(batch, now) for batch in batches]
            going += started
            if all(batch.members for batch in started):
                break  # otherwise the device takes more
        if going:
            self._freed.notify_all()  # their canvases may open new batches
        return going

    def _start(self, batch: Batch[Request], now: float) -> RunningBatch:
        members, positions = batch.members, None
        dropped = _unwanted(members, now)
        dropped += [request for request in members if request.state is not State.JOINED]
        if dropped:
            gone = set(dropped)
            positions = [i for i, request in enumerate(members) if request not in gone]
            members = [members[i] for i in positions]
            if positions == list(range(len(positions))):
                positions = None  # only the last ones were dropped
        batch.members = []  # they refer to the batch
        slot = self._slot_of.pop(id(batch))
        running = RunningBatch(batch, slot, members, positions, dropped, now)
        if members:
            batch.launched = now
            self._running[id(running)] = running
            if self._busy_since is None:
                self._busy_since = time.perf_counter()
        return running

    def landed(self, running: RunningBatch, seconds: float | None, *, good: bool) -> bool:
        """Note that a forward has ended; return False when it was given up before.

        Args:
            running: The batch.
            seconds: Time that the device spent on it; None to take the time since it was submitted
                or, if that is less, since the landing before.
            good: Whether it succeeded.
        """
        with self._lock:
            if self._running.pop(id(running), None) is None:
                return False
            now = self._clock()
            batch = running.batch
            batch.landed = now
            if self._busy_since is not None:
                ended = time.perf_counter()
                self._stats.add("forward", ended - self._busy_since)
                self._busy_since = ended if self._running else None
            if good:
                if seconds is None:
                    seconds = now - max(running.started, self._last_landing)
                self._batcher.costs.observe(batch.canvas, len(running.members), seconds)
            self._last_landing = now
            if not self._running:
                self._quiet.notify_all()
            return True

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._lock:
            self._slots.release(slot)
            self._freed.notify_all()  # the first to wake may need none
            self._wake_workers()

    def give_up(self) -> None:
        """Wait for no forward any more: they hang, or may never have started."""
        with self._lock:
            self._running.clear()
            self._quiet.notify_all()

    def await_due(self, stall_s: float) -> bool:
        """Wait until time alone may have made a batch due; return False when stopped.

        Raises:
            RuntimeFailedError: A forward lasts longer than `stall_s` seconds.
        """
        with self._lock:
            if self._error is not None:
                return False
            now = self._clock()
            due = self._batcher.next_due()
            oldest = min((running.started for running in self._running.values()), default=now)
            if now - oldest > stall_s:
                self._running.clear()  # nobody shall wait for them
                self._quiet.notify_all()
                raise RuntimeFailedError(
                    f"a forward has not ended for {now - oldest:.0f} s, longer than "
                    f"stall_s={stall_s:g}"
                )
            wait = min(1.0, stall_s / 4)
            if due is not None and due > now:
                wait = min(wait, due - now)
            self._timer.wait(wait)
            return self._error is None

    # Outcomes ---------------------------------------------------------------------------------

    def finish(self, requests: Sequence[Request]) -> list[Request]:
        """Decide that requests have an outcome; return those whose outcome was still open."""
        with self._lock:
            return self._finish(requests)

    def _finish(self, requests: Sequence[Request]) -> list[Request]:
        now = self._clock()
        open_ = [request for request in requests if request.state is not State.DONE]
        prepared = held = 0
        in_batch: list[Request] = []
        for request in open_:
            state = request.state
            if state is State.JOINED:
                in_batch.append(request)
            elif state is State.TAKEN:
                prepared += 1
            request.state = State.DONE
            request.settled = now
            if request.nbytes:
                held += 1
                self._nbytes.give(request.source, request.nbytes)
        for source, count in _counts(in_batch).items():
            self._leave_batches(source, count)
        self._live.difference_update(open_)
        if prepared:
            self._preparing -= prepared
            self._wake_workers()
        if held:
            self._room.notify_all()
        if not self._live:
            self._quiet.notify_all()
        return open_

    def _leave_batches(self, source: Hashable, count: int) -> None:
        left = self._in_batches[source] - count
        if left:
            self._in_batches[source] = left
        else:
            del self._in_batches[source]
            self._batcher.forget(source)
            self._wake_workers()  # the last slot is for it again

    # The end ----------------------------------------------------------------------------------

    def drain(self, timeout: float | None) -> bool:
        """Admit nothing more and wait until every request has an outcome; return whether all do."""
        with self._lock:
            self._draining = True
            self._room.notify_all()
            self._quiet.wait_for(lambda: not self._live or self._error is not None, timeout)
            return not self._live

    def stop(self, error: BrimfulError) -> list[Request] | None:
        """Stop for good, and wake everyone up.

        Args:
            error: Why.

        Returns:
            The requests whose outcome was open, which the caller fails; None when it was stopped
            before.
        """
        with self._lock:
            if self._error is not None:
                return None
            self._error = error
            self._queue.clear()
            self._batcher.clear()
            self._slot_of.clear()
            abandoned = self._finish(list(self._live))
            for condition in (self._room, self._work, self._freed, self._timer, self._quiet):
                condition.notify_all()
            return abandoned

    def await_landings(self, timeout: float) -> bool:
        """Wait until no forward is on the device; return whether that is so."""
        with self._lock:
            return self._quiet.wait_for(lambda: not self._running, timeout)

    def clear(self) -> None:
        """Drop every slot, once stopped."""
        with self._lock:
            self._slots.clear()
            self._slot_of.clear()


def _again(error: BrimfulError) -> EngineStoppedError:
    """Return an error to raise for one that stopped the scheduler; a broken device stays one."""
    if isinstance(error, DeviceFailedError):
        return DeviceFailedError(str(error))
    return EngineStoppedError(str(error))


def _unwanted(requests: Sequence[Request], now: float) -> list[Request]:
    """Return the requests whose deadline has passed, or that their responder does not want."""
    unwanted: list[Request] = []
    responder, wanted = None, True
    for request in requests:
        if request.responder is not responder:  # a job's images share one
            responder = request.responder
            wanted = responder.wanted(request)
        if not wanted or (request.deadline is not None and now >= request.deadline):
            unwanted.append(request)
    return unwanted


def _counts(requests: Sequence[Request]) -> dict[Hashable, int]:
    """Return how many requests each source has among these."""
    if not requests:
        return {}
    source = requests[0].source
    if all(request.source is source for request in requests):
        return {source: len(requests)}
    return Counter(request.source for request in requests)
