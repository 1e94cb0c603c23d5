"""The pipeline: one generation of stages, from admitted images to settled results.

All state is the `Scheduler`'s; work is done outside of its lock. Threads: decode workers
(`DecodeStage`), the runtime's own, one for postprocess, one that runs the members of failed batches
again, and a clock for what time alone makes due. Whoever changes what could be due launches: there
is no polling.

Images move in chunks and batches, so that an image costs neither a lock nor a wake-up of its own.
Every admitted request has exactly one outcome. When a stage dies, or the device is broken, every
live request fails with that error.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
import time
from collections.abc import Callable, Sequence

from brimful.detections import Detections, FailureKind
from brimful.engine.batcher import Batcher, FixedLimits
from brimful.engine.batches import Joined, RunningBatch, SlotError
from brimful.engine.breaker import PROBE_DELAYS_S, Breaker
from brimful.engine.config import EngineConfig
from brimful.engine.cost_model import CostModel
from brimful.engine.decode_stage import DecodeStage, Failed, explain
from brimful.engine.fair_queue import FairQueue
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.request import Request
from brimful.engine.retry import probe, retry
from brimful.engine.room import Room
from brimful.engine.scheduler import Scheduler
from brimful.engine.slots import SlotPool
from brimful.engine.stats import StageStats
from brimful.engine.supervisor import Supervisor
from brimful.errors import (
    BrimfulError,
    DeviceFailedError,
    EngineStoppedError,
    ModelError,
    RuntimeFailedError,
)
from brimful.runtimes.runtime import OutOfMemoryError, Outputs, Params, Runtime
from brimful.spec import ModelSpec
from brimful.vision.postprocess import Postprocess

Landed = tuple[RunningBatch, Outputs | None, BaseException | None]
"""A batch whose forward has ended, and its outputs or its error."""


class _PostprocessError(RuntimeFailedError):
    """The forward succeeded, and what it computed could not be turned into detections."""


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
        full_cost: int,
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
            full_cost: Pixels of the largest canvas.
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
        limits = FixedLimits(
            max_batch=runtime.max_batch,
            max_delay_ms=config.max_delay_ms,
            max_pixels=config.max_batch_pixels,
        )
        self.costs = CostModel()
        self.scheduler = Scheduler(
            runtime,
            FairQueue(config.queue, full_cost),
            Batcher(limits, self.costs),
            SlotPool(runtime, slots),
            Room(config.queue_bytes),
            stats,
            clock=clock,
        )
        self._finished: queue.SimpleQueue[Landed | None] = queue.SimpleQueue()
        self._broken: queue.SimpleQueue[tuple[RunningBatch, BaseException] | None] = (
            queue.SimpleQueue()
        )
        self._breaker = Breaker()
        self._breaking = threading.Lock()
        self._supervisor = Supervisor(self._died)
        decode = DecodeStage(
            preprocess,
            self.scheduler,
            stats,
            workers=workers,
            chunk=chunk,
            on_dropped=self._drop,
            on_bad=self._settle_bad,
            on_no_slot=self._no_slot,
            on_written=self._written,
        )
        for i in range(workers):
            self._supervisor.spawn(f"decode-{i}", decode.loop)
        self._supervisor.spawn("postprocess", self._postprocess_loop)
        self._supervisor.spawn("retry", self._retry_loop)
        self._supervisor.spawn("clock", self._clock_loop)

    @property
    def error(self) -> BrimfulError | None:
        """Why the pipeline stopped, or None while it runs."""
        return self.scheduler.error

    def admit(self, requests: Sequence[Request], *, wait: bool) -> int:
        """Take requests in; see `Scheduler.admit`.

        Returns:
            How many were taken in.
        """
        admitted, replaced = self.scheduler.admit(requests, wait=wait)
        if replaced:
            self._tell_failed(
                replaced, "overload", "a newer image of its source replaced it before it was run"
            )
        return admitted

    def stop(self, error: BrimfulError) -> None:
        """Stop every stage; what is in flight fails with `error`."""
        _fail(self._halt(error), error)

    def _halt(self, error: BrimfulError) -> list[Request]:
        """Stop every stage; return the requests whose outcome was open."""
        abandoned = self.scheduler.stop(error)
        if abandoned is None:
            return []
        self._finished.put(None)
        self._broken.put(None)
        return abandoned

    def join(self, timeout: float) -> list[str]:
        """Wait for forwards and stages to end after `stop`; return the stages that did not.

        Afterwards the pipeline holds no slots.
        """
        self.scheduler.await_landings(timeout)
        alive = self._supervisor.join(timeout)
        self.scheduler.clear()
        if not alive:  # nobody waits for the end of the queues, and what landed since holds slots
            with contextlib.suppress(queue.Empty):
                while True:
                    self._finished.get_nowait()
            with contextlib.suppress(queue.Empty):
                while True:
                    self._broken.get_nowait()
        return alive

    # Forward ----------------------------------------------------------------------------------

    def _written(self, joined: Sequence[Joined]) -> None:
        self._submit(self.scheduler.written(joined))

    def _launch(self) -> None:
        self._submit(self.scheduler.launch())

    def _submit(self, batches: Sequence[RunningBatch]) -> None:
        for running in batches:
            if running.dropped:
                self._drop(running.dropped)
            if not running.members:
                running.slot.clear()
                self.scheduler.release(running.slot)
                continue
            self._stats.count_batch(len(running.members))
            landed = functools.partial(self._landed, running)
            try:
                if running.positions is not None:
                    running.slot.keep(running.positions)
                self._runtime.submit(
                    running.slot, len(running.members), landed, _params(running.members)
                )
            except BaseException as error:  # it shall report errors, not raise them
                self.scheduler.give_up()  # nothing tells whether they will land
                self._supervisor.report("forward", error)
                return

    def _landed(
        self,
        running: RunningBatch,
        outputs: Outputs | None,
        error: BaseException | None,
        seconds: float | None = None,
    ) -> None:
        """Take note of a forward's end, on the runtime's thread."""
        try:
            if self.scheduler.landed(running, seconds, good=error is None):
                self._finished.put((running, outputs, error))
                self._launch()
        except BaseException as fault:
            self._supervisor.report("forward", fault)

    # Postprocess ------------------------------------------------------------------------------

    def _postprocess_loop(self) -> None:
        while (landed := self._finished.get()) is not None:
            running, outputs, error = landed
            if self.error is not None:
                continue
            if error is None and outputs is not None:
                error = self._finish(running.members, outputs)
            else:
                error = error or RuntimeFailedError("the runtime returned no outputs")
            if error is None:
                self._release(running)
            else:  # its members are run again on another thread: no other batch waits for that
                self._broken.put((running, error))
            del landed, running, outputs, error

    def _release(self, running: RunningBatch) -> None:
        running.slot.clear()
        self.scheduler.release(running.slot)

    def _finish(self, members: Sequence[Request], outputs: Outputs) -> BaseException | None:
        """Settle the requests of a forward that succeeded; return why that is not possible."""
        started = time.perf_counter()
        placed = [request.placed() for request in members]
        try:
            found = self._postprocess(outputs, placed, _params(members))
        except ModelError:  # the outputs are not what the model's facts say, for any image
            raise
        except Exception as error:
            return _PostprocessError(f"postprocess failed: {explain(error)}")
        self._stats.add("postprocess", time.perf_counter() - started)
        with self._breaking:
            self._breaker.succeeded()
        self._settle(members, found)
        return None

    # Failures ---------------------------------------------------------------------------------

    def _retry_loop(self) -> None:
        while (landed := self._broken.get()) is not None:
            running, error = landed
            if self.error is not None:
                continue
            self._retry(running, error)
            self._release(running)
            del landed, running, error

    def _retry(self, running: RunningBatch, error: BaseException) -> None:
        """Run the members of a failed batch again; those that fail are the device's or their own.

        Members that fail are held back until a later forward succeeds: only then is it clear that
        the device works, and that the fault is theirs.
        """
        members = running.members
        stall_s = self._config.stall_s
        failed: list[tuple[Sequence[Request], BaseException]] = []
        results = retry(
            self._runtime, running.slot, len(members), _params(members), error, timeout_s=stall_s
        )
        for part, outcome in results:
            if self.error is not None:
                return
            chosen = members[part.start : part.stop]
            fault = outcome if isinstance(outcome, BaseException) else self._finish(chosen, outcome)
            if fault is not None:
                failed.append((chosen, fault))
            else:
                self._settle_faulty(failed)
        if not failed:
            return
        last = failed[-1][1]
        if isinstance(last, OutOfMemoryError | _PostprocessError):
            self._count_failure(last)  # a blank image would tell nothing
        else:
            self._probe(running, last)
        self._settle_faulty(failed)

    def _probe(self, running: RunningBatch, error: BaseException) -> None:
        """Make sure that the device works, on which nothing has succeeded since `error`.

        Raises:
            DeviceFailedError: It does not: the stage dies of it, and nobody gets an error row.
        """
        geometry = running.members[0].geometry
        assert geometry is not None  # it joined a batch
        for delay in PROBE_DELAYS_S:
            time.sleep(delay)
            fault = probe(self._runtime, running.slot, geometry, timeout_s=self._config.stall_s)
            if fault is None:
                with self._breaking:
                    self._breaker.succeeded()
                return
        raise DeviceFailedError(
            f"the device fails whatever it is given, also a blank image: {error}"
        ) from error

    def _settle_faulty(self, failed: list[tuple[Sequence[Request], BaseException]]) -> None:
        for requests, error in failed:
            self._tell_failed(requests, "runtime", f"the forward failed: {error}")
        failed.clear()

    def _no_slot(self, requests: Sequence[Request], error: SlotError) -> None:
        self._count_failure(error)
        self._tell_failed(requests, "runtime", str(error))

    def _count_failure(self, error: BaseException) -> None:
        """Count a batch of which nothing could be run.

        Raises:
            DeviceFailedError: It was one too many.
        """
        with self._breaking:
            self._breaker.failed()
            if not self._breaker.open:
                return
        raise DeviceFailedError(f"one batch after the other failed, the last one: {error}")

    # Outcomes ---------------------------------------------------------------------------------

    def _settle_bad(self, bad: Sequence[Failed]) -> None:
        """Settle requests whose image is bad."""
        results = [request.failed(self._spec, "image", error) for request, error in bad]
        self._settle([request for request, _ in bad], results)

    def _drop(self, requests: Sequence[Request]) -> None:
        """Settle requests that nobody wants any more, or whose deadline has passed."""
        now = self._clock()
        results = []
        for request in requests:
            if request.deadline is not None and now >= request.deadline:
                text = "its deadline passed before it was run"
                results.append(request.failed(self._spec, "deadline", text))
            else:
                results.append(request.failed(self._spec, "cancelled", "it was cancelled"))
        self._settle(requests, results)

    def _tell_failed(self, requests: Sequence[Request], kind: FailureKind, error: str) -> None:
        results = [request.failed(self._spec, kind, error) for request in requests]
        self._settle(requests, results, finished=kind == "overload")

    def _settle(
        self,
        requests: Sequence[Request],
        results: Sequence[Detections],
        *,
        finished: bool = False,
    ) -> None:
        """Hand results to whoever waits for them, but for requests that have an outcome.

        Args:
            requests: The requests.
            results: Of each.
            finished: Their outcome is decided already, and this is it.
        """
        if not finished:
            live = self.scheduler.finish(requests)
            if len(live) < len(requests):
                of = dict(zip(map(id, requests), results, strict=True))
                requests, results = live, [of[id(request)] for request in live]
        groups: dict[int, tuple[list[Request], list[Detections]]] = {}
        for request, result in zip(requests, results, strict=True):
            group = groups.get(id(request.responder))
            if group is None:
                group = groups[id(request.responder)] = ([], [])
            group[0].append(request)
            group[1].append(result)
        fault: BaseException | None = None
        for own, found in groups.values():
            try:
                own[0].responder.settle(own, found)
            except BaseException as error:  # it costs nobody else an answer
                fault = fault or error
        if fault is not None:
            raise fault

    # Time, death ------------------------------------------------------------------------------

    def _clock_loop(self) -> None:
        """Launch what becomes overdue, and catch forwards that hang."""
        while self.scheduler.await_due(self._config.stall_s):
            self._launch()

    def _died(self, stage: str, error: BaseException) -> None:
        if isinstance(error, DeviceFailedError):
            reason: EngineStoppedError = error
        else:
            text = f"the {stage} stage died: {type(error).__name__}: {error}"
            reason = EngineStoppedError(text)
            reason.__cause__ = error
        abandoned = self._halt(reason)
        try:
            self._on_death(reason)
        finally:
            _fail(abandoned, reason)


def _params(requests: Sequence[Request]) -> Params:
    """Return what becomes a detection in each image, None where all take the engine's setting."""
    if all(request.params is None for request in requests):
        return None
    return [request.params for request in requests]


def _fail(requests: Sequence[Request], error: BrimfulError) -> None:
    """Fail requests, all of them, even if telling one of their responders raises."""
    groups: dict[int, list[Request]] = {}
    for request in requests:
        groups.setdefault(id(request.responder), []).append(request)
    fault: BaseException | None = None
    for own in groups.values():
        try:
            own[0].responder.fail(own, error)
        except BaseException as raised:
            fault = fault or raised
    if fault is not None:
        raise fault
