"""The pipeline: one generation of stages, from admitted images to settled results.

One lock guards all state; work is done outside of it. Threads: decode workers (decode, place,
write into the slot), the runtime's own, one for postprocess, and a clock for what time alone
makes due. Whoever changes what could be due pumps: there is no polling.

Every admitted image is in `_inflight` until it is settled. When a stage dies, whatever is there
fails with that error: no result is without an owner.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence

from brimful.detections import Detections
from brimful.engine.admission import Admission
from brimful.engine.batcher import Batch, Batcher, BatchPolicy
from brimful.engine.config import EngineConfig
from brimful.engine.flights import Flight, Flights
from brimful.engine.forward import retry
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.slots import SlotPool
from brimful.engine.stats import StageStats
from brimful.engine.supervisor import Supervisor
from brimful.engine.work import Work
from brimful.errors import BrimfulError, EngineStoppedError, ImageError, RuntimeFailedError
from brimful.runtimes.runtime import Outputs, Runtime, Slot
from brimful.sources.image import Pixels
from brimful.spec import ModelSpec, Size
from brimful.vision.encoded import Encoded
from brimful.vision.postprocess import Postprocess


class Pipeline:
    """One generation of stages around a runtime."""

    def __init__(
        self,
        runtime: Runtime,
        preprocess: HostPreprocess,
        postprocess: Postprocess,
        config: EngineConfig,
        stats: StageStats,
        *,
        workers: int,
        slots: int,
        on_death: Callable[[BrimfulError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the stages.

        Args:
            runtime: Executes the model.
            preprocess: Decodes and letterboxes.
            postprocess: Turns outputs into detections.
            config: Queue bounds, delays.
            stats: Told how long each stage worked.
            workers: Decode threads.
            slots: Slots that may exist.
            on_death: Told once when a stage died, before what was in flight fails, so that
                whoever learns of a failure can rely on what follows from it.
            clock: Seconds, monotonic.
        """
        self._runtime = runtime
        self._spec: ModelSpec = runtime.spec
        self._preprocess = preprocess
        self._postprocess = postprocess
        self._config = config
        self._stats = stats
        self._on_death = on_death
        self._clock = clock
        self._lock = threading.Lock()
        self._admitted = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        self._slot_freed = threading.Condition(self._lock)
        self._timer = threading.Condition(self._lock)
        self._admission: Admission[Work] = Admission(config.queue)
        self._batcher: Batcher[Work] = Batcher(
            BatchPolicy(
                max_batch=runtime.max_batch,
                max_delay_ms=config.max_delay_ms,
                max_pixels=config.max_pixels,
            )
        )
        self._slots = SlotPool(runtime, slots)
        self._slot_of: dict[int, Slot] = {}
        self._opening: set[Size] = set()
        self._flights = Flights(self._lock, stats)
        self._finished: queue.SimpleQueue[
            tuple[Flight, Outputs | None, BaseException | None] | None
        ] = queue.SimpleQueue()
        self._inflight: set[Work] = set()
        self._stopped: BrimfulError | None = None
        self._supervisor = Supervisor(self._died)
        for i in range(workers):
            self._supervisor.spawn(f"decode-{i}", self._decode_loop)
        self._supervisor.spawn("postprocess", self._postprocess_loop)
        self._supervisor.spawn("clock", self._clock_loop)

    @property
    def error(self) -> BrimfulError | None:
        """Why the pipeline stopped, or None while it runs."""
        return self._stopped

    @property
    def inflight(self) -> int:
        """Images admitted and not settled."""
        return len(self._inflight)

    def admit(self, work: Work, *, wait: bool) -> bool:
        """Take an image in.

        Args:
            work: The image; its `settle` will be called exactly once, on some stage's thread.
            wait: Wait for room; otherwise return False when there is none.

        Raises:
            EngineStoppedError: The pipeline has stopped.
        """
        with self._lock:
            while True:
                self._check_running()
                if self._admission.offer(work, source=work.source, deadline=work.deadline):
                    self._inflight.add(work)
                    self._admitted.notify()
                    return True
                if not wait:
                    return False
                self._room.wait()

    def stop(self, error: BrimfulError) -> None:
        """Stop every stage; what is in flight fails with `error`."""
        _fail(self._halt(error), error)

    def _halt(self, error: BrimfulError) -> list[Work]:
        """Stop every stage; return what was in flight."""
        with self._lock:
            if self._stopped is not None:
                return []
            self._stopped = error
            abandoned = list(self._inflight)
            self._inflight.clear()
            self._admission.clear()
            self._batcher.clear()
            for condition in (self._admitted, self._room, self._slot_freed, self._timer):
                condition.notify_all()
        self._finished.put(None)
        return abandoned

    def join(self, timeout: float) -> list[str]:
        """Wait for forwards and stages to end after `stop`; return the stages that did not.

        Afterwards the pipeline holds no slots.
        """
        with self._lock:
            self._flights.wait_landed(timeout)
        alive = self._supervisor.join(timeout)
        with self._lock:
            self._slots.clear()
            self._slot_of.clear()
        return alive

    # Decode workers ---------------------------------------------------------------------------

    def _decode_loop(self) -> None:
        while (work := self._next_work()) is not None:
            self._prepare(work)
            del work  # a waiting thread keeps no image alive

    def _next_work(self) -> Work | None:
        """Wait for an image; None when the pipeline has stopped."""
        while True:
            with self._lock:
                while True:
                    if self._stopped is not None:
                        return None
                    taken = self._admission.take(self._clock())
                    if taken is not None:
                        self._room.notify()
                        break
                    self._admitted.wait()
            work, expired = taken
            if not expired:
                return work
            self._settle(work, error="its deadline passed before it was decoded")

    def _prepare(self, work: Work) -> None:
        """Decode an image and write it into a slot; a bad image settles its own result."""
        started = time.perf_counter()
        try:
            image = self._preprocess.decode(work.image)
        except ImageError as error:
            self._settle(work, error=str(error))
            return
        finally:
            self._stats.add("decode", time.perf_counter() - started)
        work.geometry = self._preprocess.place(image)
        joined = self._join(work)
        if joined is None:
            return  # stopped: the work was settled with the reason
        self._write(work, image, *joined)

    def _join(self, work: Work) -> tuple[Batch[Work], Slot, int] | None:
        """Join the open batch of the work's canvas, waiting for a free slot if it has none."""
        assert work.geometry is not None
        canvas = work.geometry.canvas
        while True:
            with self._lock:
                batch = self._open_batch(canvas)
                if self._stopped is not None:
                    return None
                if batch is not None:
                    position = self._batcher.join(batch, work, self._clock(), work.deadline)
                    if len(batch.members) == 1 or work.deadline is not None:
                        self._timer.notify()  # it may be due sooner than the clock expects
                    return batch, self._slot_of[id(batch)], position
                self._opening.add(canvas)
            # The slot is reserved but not allocated: that may compile for seconds.
            slot = None
            started = time.perf_counter()
            try:
                slot = self._slots.allocate(canvas, self._batcher.policy.capacity(canvas))
            finally:
                self._stats.add("compile", time.perf_counter() - started)
                with self._lock:
                    self._opening.discard(canvas)
                    if slot is None:
                        self._slots.release(None)
                        self._slot_freed.notify_all()
                    else:
                        self._adopt(canvas, slot)

    def _open_batch(self, canvas: Size) -> Batch[Work] | None:
        """Return the batch to join, or None when the caller shall allocate a slot for it."""
        while self._stopped is None:
            batch = self._batcher.joinable(canvas)
            if batch is not None:
                return batch
            if canvas not in self._opening:
                capacity = self._batcher.policy.capacity(canvas)
                reserved, slot = self._slots.reserve(canvas, capacity)
                if slot is not None:
                    return self._adopt(canvas, slot)
                if reserved:
                    return None
            self._slot_freed.wait()
        return None

    def _adopt(self, canvas: Size, slot: Slot) -> Batch[Work]:
        batch = self._batcher.open(canvas, self._clock(), slot.capacity)
        self._slot_of[id(batch)] = slot
        self._slot_freed.notify_all()  # who waits for a slot of this canvas may join
        return batch

    def _write(
        self, work: Work, image: Pixels | Encoded, batch: Batch[Work], slot: Slot, position: int
    ) -> None:
        assert work.geometry is not None
        started = time.perf_counter()
        try:
            self._preprocess.write(image, work.geometry, slot, position)
        except BaseException as error:
            self._supervisor.report("preprocess", error)
            return
        self._stats.add("preprocess", time.perf_counter() - started)
        with self._lock:
            batch.unwritten -= 1
        self._pump()

    # Forward ----------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Start every batch that is due."""
        with self._lock:
            if self._stopped is not None:
                return
            now = self._clock()
            running = len(self._flights)
            idle = max(0, self._runtime.concurrency - running)
            # One batch more than runs, so that the device finds the next without asking.
            ahead = max(0, self._runtime.concurrency + 1 - running)
            flights = [
                self._flights.launch(batch, self._slot_of.pop(id(batch)), now)
                for batch in self._batcher.due(now, idle=idle, ahead=ahead)
            ]
            if flights:
                self._slot_freed.notify_all()  # their canvases may open new batches
        for flight in flights:
            self._stats.count_batch(len(flight.batch.members))
            landed = functools.partial(self._landed, flight)
            try:
                self._runtime.submit(flight.slot, len(flight.batch.members), landed)
            except BaseException as error:  # it shall report errors, not raise them
                with self._lock:
                    self._flights.give_up()  # nothing tells whether they will land
                self._supervisor.report("forward", error)
                return

    def _landed(self, flight: Flight, outputs: Outputs | None, error: BaseException | None) -> None:
        """Take note of a forward's end, on the runtime's thread."""
        try:
            with self._lock:
                if not self._flights.land(flight):
                    return
                self._batcher.observe(self._clock() - flight.started)
            self._finished.put((flight, outputs, error))
            self._pump()
        except BaseException as fault:
            self._supervisor.report("forward", fault)

    # Postprocess ------------------------------------------------------------------------------

    def _postprocess_loop(self) -> None:
        while (landed := self._finished.get()) is not None:
            flight, outputs, error = landed
            if self._stopped is not None:
                continue
            members = flight.batch.members
            if error is None and outputs is not None:
                self._finish(members, outputs)
            else:
                self._finish_singly(flight, error or RuntimeFailedError("no outputs"))
            flight.slot.clear()
            with self._lock:
                self._slots.release(flight.slot)
                self._slot_freed.notify_all()  # the first to wake may need none
            del landed, flight, outputs, error, members

    def _finish(self, members: Sequence[Work], outputs: Outputs) -> None:
        started = time.perf_counter()
        found = self._postprocess(outputs, [work.placed() for work in members])
        self._stats.add("postprocess", time.perf_counter() - started)
        for work, detections in zip(members, found, strict=True):
            self._deliver(work, detections)

    def _finish_singly(self, flight: Flight, error: BaseException) -> None:
        members = flight.batch.members
        results = retry(
            self._runtime, flight.slot, len(members), error, timeout_s=self._config.stall_s
        )
        for part, outcome in results:
            chosen = members[part.start : part.stop]
            if isinstance(outcome, BaseException):
                for work in chosen:
                    self._settle(work, error=f"the forward failed: {outcome}")
            else:
                self._finish(chosen, outcome)

    # Time, settling, death --------------------------------------------------------------------

    def _clock_loop(self) -> None:
        """Wake when a batch becomes overdue, and catch forwards that hang."""
        while True:
            with self._lock:
                if self._stopped is not None:
                    return
                now = self._clock()
                due = self._batcher.next_due()
                oldest = self._flights.oldest()
                if oldest is not None and now - oldest > self._config.stall_s:
                    self._flights.give_up()  # nobody shall wait for them
                    raise RuntimeFailedError(
                        f"a forward has not ended for {now - oldest:.0f} s, longer than "
                        f"stall_s={self._config.stall_s:g}"
                    )
                wait = min(1.0, self._config.stall_s / 4)
                if due is not None and due > now:
                    wait = min(wait, due - now)
                self._timer.wait(wait)
            self._pump()

    def _settle(self, work: Work, *, error: str) -> None:
        self._deliver(work, work.failed(self._spec, error))

    def _deliver(self, work: Work, detections: Detections) -> None:
        with self._lock:
            if work not in self._inflight:
                return  # it failed when the pipeline stopped
            self._inflight.remove(work)
        work.settle(detections, None)

    def _died(self, stage: str, error: BaseException) -> None:
        reason = EngineStoppedError(f"the {stage} stage died: {type(error).__name__}: {error}")
        reason.__cause__ = error
        abandoned = self._halt(reason)
        try:
            self._on_death(reason)
        finally:
            _fail(abandoned, reason)

    def _check_running(self) -> None:
        if self._stopped is not None:
            raise EngineStoppedError(str(self._stopped)) from self._stopped


def _fail(abandoned: list[Work], error: BrimfulError) -> None:
    """Fail works, all of them, even if telling one of their owners raises."""
    fault: BaseException | None = None
    for work in abandoned:
        try:
            work.settle(None, error)
        except BaseException as raised:
            fault = fault or raised
    if fault is not None:
        raise fault
