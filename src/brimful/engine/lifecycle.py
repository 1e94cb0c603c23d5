"""Lifecycle: the pipeline that an engine runs on: started, restarted, swapped, drained, closed."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from brimful.cpus import available_cpus
from brimful.engine.config import EngineConfig
from brimful.engine.pipeline import Pipeline
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.request import Request
from brimful.engine.stats import StageStats, StageUse, limiting
from brimful.errors import BrimfulError, EngineStoppedError, UsageError
from brimful.native.read_files import open_reader
from brimful.runtimes.runtime import Runtime
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.postprocess import build_postprocess

LOOKAHEAD = 16
"""Images that may wait, letterboxed, for their canvas's turn."""

CHUNK = 32
"""Images that a worker reads at a time when the device decodes them."""

CLOSE_TIMEOUT_S = 10.0

_log = logging.getLogger("brimful")


@dataclass(frozen=True, slots=True)
class EngineReport:
    """How an engine spent its time.

    Attributes:
        stages: Use of each stage.
        limits: The stage that limits.
        batches: How many forwards there were of each batch size.
    """

    stages: list[StageUse]
    limits: StageUse
    batches: dict[int, int]


class Lifecycle:
    """The pipeline of an engine, and whatever outlives one pipeline.

    Attributes:
        runtime: Executes the model.
        spec: What the model is.
        config: The engine's.
        policy: Chooses canvases.
        preprocess: Of the pipeline that runs.
        pipeline: The one that runs.
        restarts: How often the stages were restarted after one of them died.
    """

    def __init__(self, runtime: Runtime, config: EngineConfig) -> None:
        """Start the first pipeline.

        Args:
            runtime: Executes the model; it belongs to this from here on.
            config: Everything else.
        """
        self.runtime = runtime
        self.spec: ModelSpec = runtime.spec
        self.config = replace(config, postprocess=config.postprocess.of_model(self.spec))
        self.policy = CanvasPolicy.for_model(self.spec, config.canvas, config.imgsz)
        self.full_cost = self.policy.imgsz[0] * self.policy.imgsz[1]
        self.stats = StageStats()
        self.restarts = 0
        self._workers = config.workers or min(8, available_cpus())
        self._lock = threading.Lock()
        self._restarted = threading.Condition(self._lock)
        self._closed = False
        self._cleanups: list[threading.Thread] = []
        self._process = os.getpid()
        self.pipeline = self.start()

    def admit(self, requests: Sequence[Request], *, wait: bool) -> int:
        """Take requests in; return how many were taken.

        Raises:
            EngineStoppedError: None was taken, and none will be. Where that comes to light after
                some were taken, the others fail with it.
        """
        admitted = 0
        while True:
            pipeline = self.pipeline
            try:
                self.check_usable()
                admitted += pipeline.admit(requests[admitted:], wait=wait)
                if admitted == len(requests):
                    return admitted
                # What a pipeline that is being replaced refuses is the next one's.
                if pipeline is self.pipeline and not pipeline.error:
                    if not pipeline.scheduler.draining:
                        return admitted
                    raise EngineStoppedError("the engine finishes what it has and takes no more")
            except EngineStoppedError as error:
                if self._restarting(pipeline) or self._swapped(pipeline):
                    continue
                if not admitted:
                    raise
                rest = requests[admitted:]
                rest[0].responder.fail(rest, error)
                return len(requests)

    def _swapped(self, pipeline: Pipeline) -> bool:
        """Tell whether another pipeline has taken over from this one."""
        return self.pipeline is not pipeline and not self._closed

    def _restarting(self, pipeline: Pipeline) -> bool:
        """Wait for the next pipeline where this one's stages are being restarted."""
        if pipeline.error is None or self.config.on_stage_death == "stop":
            return False
        with self._lock:
            self._restarted.wait_for(
                lambda: self._closed or self.pipeline is not pipeline, CLOSE_TIMEOUT_S
            )
            return not self._closed and self.pipeline is not pipeline

    def check_usable(self) -> None:
        """Make sure that the engine can be used here.

        Raises:
            EngineStoppedError: It was closed, or this is another process.
        """
        if os.getpid() != self._process:
            raise EngineStoppedError(
                f"this engine runs in process {self._process}; threads do not survive a fork, so "
                "load another one in this process"
            )
        if self._closed:
            raise EngineStoppedError("the engine was closed")

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing more and finish what was taken; `close` is all that may follow.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything is finished.
        """
        return self.pipeline.scheduler.drain(timeout)

    def swap(self, runtime: Runtime, timeout: float | None = None) -> None:
        """Go on with another runtime of the same model, such as one of another precision.

        What was taken before is finished by the old runtime, which is then closed. No request is
        lost or refused, and jobs go on in order.

        Args:
            runtime: Executes the model from now on; the engine owns it.
            timeout: Seconds that the old runtime has to finish at most; after that, what it has
                not finished fails.

        Raises:
            UsageError: Its task or class names are others.
            EngineStoppedError: The engine was closed.
        """
        if (runtime.spec.task, runtime.spec.names) != (self.spec.task, self.spec.names):
            raise UsageError(
                "a runtime can only be swapped for one of the same task and class names; load "
                "another engine for another model"
            )
        with self._lock:
            self.check_usable()
            old, old_runtime = self.pipeline, self.runtime
            self.runtime, self.spec = runtime, runtime.spec
            self.pipeline = self.start()
        old.scheduler.drain(timeout)
        self._end(old)
        old_runtime.close()

    @property
    def health(self) -> str:
        """`ok`, or why the engine serves nothing."""
        error = self.pipeline.error
        return "ok" if error is None else str(error)

    def report(self) -> EngineReport:
        """Return how the stages spent their time since the start or the last reset."""
        uses = self.stats.use(dict.fromkeys(("decode", "compile", "preprocess"), self._workers))
        return EngineReport(uses, limiting(uses), self.stats.batches())

    def describe(self) -> dict[str, str | int]:
        """Return what decides speed and results, for reports."""
        return {
            **self.runtime.describe(),
            "canvas": self.config.canvas,
            "batch": self.runtime.max_batch,
            "workers": self._workers,
        }

    def close(self, ended: Callable[[], None]) -> None:
        """Stop the pipeline and give its memory back; what is in flight fails.

        Args:
            ended: Called when nothing of it runs any more; not if it was closed before, or in a
                child of its process.
        """
        if os.getpid() != self._process:
            return  # a child's copy: the threads are the parent's
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._restarted.notify_all()
            pipeline = self.pipeline
        try:
            self._end(pipeline)
        finally:
            for cleanup in self._cleanups:  # it waits for forwards of the runtime
                cleanup.join(CLOSE_TIMEOUT_S)
            self.runtime.close()
            ended()

    def _end(self, pipeline: Pipeline) -> None:
        """Stop a pipeline and wait for its threads."""
        try:
            pipeline.stop(EngineStoppedError("the engine was closed"))
        finally:
            alive = pipeline.join(CLOSE_TIMEOUT_S)
            if alive:
                _log.warning("threads that did not end in time: %s", ", ".join(alive))

    def start(self) -> Pipeline:
        """Start a pipeline on the runtime."""
        runtime = self.runtime
        pinned_for = runtime.pinned_for
        self.preprocess = HostPreprocess(
            self.spec,
            self.policy,
            self.config.limits,
            runtime.accepts_encoded,
            runtime.accepts_frame,
            pinned_for,
            None if pinned_for is None else open_reader(),
        )
        return Pipeline(
            runtime,
            self.preprocess,
            build_postprocess(self.spec, self.config.postprocess),
            self.config,
            self.stats,
            workers=self._workers,
            slots=self.slots(runtime),
            full_cost=self.full_cost,
            chunk=1 if runtime.accepts_encoded is None else CHUNK,
            on_death=self._stage_died,
        )

    def slots(self, runtime: Runtime) -> int:
        """Return how many slots a runtime gets.

        Enough for what runs, what is ahead, one in postprocess, one for a source that has nothing
        in a batch, and an open batch per canvas; and, where batches are small, for the batcher to
        find several of the same canvas.
        """
        canvases = self.policy.canvases()
        open_batches = len(canvases) if canvases is not None else 4
        open_batches = max(open_batches, LOOKAHEAD // runtime.max_batch)
        return runtime.concurrency + runtime.prefetch + 2 + open_batches

    def _stage_died(self, error: BrimfulError) -> None:
        with self._lock:
            if self._closed or self.config.on_stage_death == "stop":
                return
            self.restarts += 1
            dead = self.pipeline
            self.pipeline = self.start()
            self._restarted.notify_all()
            # The stage that died calls this, so another thread waits for it.
            cleanup = threading.Thread(
                target=self._end, args=(dead,), name="brimful-cleanup", daemon=True
            )
            self._cleanups = [c for c in self._cleanups if c.is_alive()] + [cleanup]
            cleanup.start()
