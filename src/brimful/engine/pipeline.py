"""The pipeline: one generation of stages, from admitted images to settled results.

One lock guards all state; work is done outside of it. Threads: decode workers (`DecodeStage`), the
runtime's own, one for postprocess, and a clock for what time alone makes due. Whoever changes what
could be due pumps: there is no polling.

Images move in chunks and batches, so that an image costs neither a lock nor a wake-up of its own.
Every admitted image is in `InFlight` until it is settled. When a stage dies, whatever is there
fails with that error: no result is without an owner.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence

from brimful.engine.admission import Admission
from brimful.engine.batcher import Batcher, BatchPolicy
from brimful.engine.config import EngineConfig
from brimful.engine.decode_stage import DecodeStage
from brimful.engine.flights import Flight, Flights
from brimful.engine.forward import retry
from brimful.engine.inflight import InFlight, fail
from brimful.engine.intake import Intake
from brimful.engine.open_batches import Joined, OpenBatches
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.slots import SlotPool
from brimful.engine.stats import StageStats
from brimful.engine.supervisor import Supervisor
from brimful.engine.work import Work
from brimful.errors import BrimfulError, EngineStoppedError, RuntimeFailedError
from brimful.runtimes.runtime import Outputs, Runtime
from brimful.spec import ModelSpec
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
        chunk: int = 1,
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
            chunk: Images that a decode worker takes at a time at most.
            on_death: Told once when a stage died, before what was in flight fails, so that
                whoever learns of a failure can rely on what follows from it.
            clock: Seconds, monotonic.
        """
        self._runtime = runtime
        self._spec: ModelSpec = runtime.spec
        self._postprocess = postprocess
        self._config = config
        self._stats = stats
        self._on_death = on_death
        self._clock = clock
        self._lock = threading.Lock()
        self._timer = threading.Condition(self._lock)
        self._inflight = InFlight(self._lock)
        self._admission: Admission[Work] = Admission(config.queue)
        self._intake = Intake(self._admission, self._inflight, self._lock, clock=clock)
        self._batcher: Batcher[Work] = Batcher(
            BatchPolicy(
                max_batch=runtime.max_batch,
                max_delay_ms=config.max_delay_ms,
                max_pixels=config.max_pixels,
            )
        )
        self._slots = SlotPool(runtime, slots)
        self._batches = OpenBatches(
            self._batcher,
            self._slots,
            self._lock,
            stats,
            on_open=self._timer.notify,
            clock=clock,
        )
        self._flights = Flights(self._lock, stats)
        self._finished: queue.SimpleQueue[
            tuple[Flight, Outputs | None, BaseException | None] | None
        ] = queue.SimpleQueue()
        self._stopped: BrimfulError | None = None
        self._supervisor = Supervisor(self._died)
        decode = DecodeStage(
            preprocess,
            self._intake,
            self._batches,
            self._inflight,
            self._spec,
            stats,
            workers=workers,
            chunk=chunk,
            on_written=self._written,
            on_death=self._supervisor.report,
        )
        for i in range(workers):
            self._supervisor.spawn(f"decode-{i}", decode.loop)
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

    def admit(self, works: Sequence[Work], *, wait: bool) -> int:
        """Take images of one owner in; see `Intake.admit`."""
        return self._intake.admit(works, wait=wait)

    def stop(self, error: BrimfulError) -> None:
        """Stop every stage; what is in flight fails with `error`."""
        fail(self._halt(error), error)

    def _halt(self, error: BrimfulError) -> list[Work]:
        """Stop every stage; return what was in flight."""
        with self._lock:
            if self._stopped is not None:
                return []
            self._stopped = error
            abandoned = self._inflight.abandon(error)
            self._batcher.clear()
            self._intake.close(error)
            self._batches.close()
            self._timer.notify_all()
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
            self._batches.clear()
        if not alive:  # nobody waits for the end of the queue, and what landed since holds slots
            with contextlib.suppress(queue.Empty):
                while True:
                    self._finished.get_nowait()
        return alive

    # Forward ----------------------------------------------------------------------------------

    def _written(self, joined: Sequence[Joined]) -> None:
        """Count written images, and start every batch that is due."""
        with self._lock:
            for part in joined:
                part.batch.unwritten -= len(part.images)
            flights = self._launch()
        self._submit(flights)

    def _pump(self) -> None:
        """Start every batch that is due."""
        with self._lock:
            flights = self._launch()
        self._submit(flights)

    def _launch(self) -> list[Flight]:
        """Take the batches that are due, with the lock held."""
        if self._stopped is not None:
            return []
        now = self._clock()
        running = len(self._flights)
        idle = max(0, self._runtime.eager - running)
        # More than run, so that the device finds the next without asking.
        ahead = max(0, self._runtime.concurrency + self._runtime.ahead - running)
        flights = [
            self._flights.launch(batch, self._batches.take(batch), now)
            for batch in self._batcher.due(now, idle=idle, ahead=ahead)
        ]
        if flights:
            self._batches.freed.notify_all()  # their canvases may open new batches
        return flights

    def _submit(self, flights: Sequence[Flight]) -> None:
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
                self._batches.release(flight.slot)
            del landed, flight, outputs, error, members

    def _finish(self, members: Sequence[Work], outputs: Outputs) -> None:
        started = time.perf_counter()
        found = self._postprocess(outputs, [work.placed() for work in members])
        self._stats.add("postprocess", time.perf_counter() - started)
        self._inflight.settle(members, found)

    def _finish_singly(self, flight: Flight, error: BaseException) -> None:
        members = flight.batch.members
        results = retry(
            self._runtime, flight.slot, len(members), error, timeout_s=self._config.stall_s
        )
        for part, outcome in results:
            chosen = members[part.start : part.stop]
            if isinstance(outcome, BaseException):
                error_text = f"the forward failed: {outcome}"
                failed = [work.failed(self._spec, error_text) for work in chosen]
                self._inflight.settle(chosen, failed)
            else:
                self._finish(chosen, outcome)

    # Time, death -----------------------------------------------------------------------------

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

    def _died(self, stage: str, error: BaseException) -> None:
        reason = EngineStoppedError(f"the {stage} stage died: {type(error).__name__}: {error}")
        reason.__cause__ = error
        abandoned = self._halt(reason)
        try:
            self._on_death(reason)
        finally:
            fail(abandoned, reason)
