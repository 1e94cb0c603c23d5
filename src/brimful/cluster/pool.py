"""EnginePool: one engine process per device, one shared work queue, one ordered output."""

from __future__ import annotations

import atexit
import os
import pickle
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future

from brimful.cluster.allowance import Allowance
from brimful.cluster.arena import Arena
from brimful.cluster.child import encode
from brimful.cluster.dispatcher import Dispatcher
from brimful.cluster.engine_process import EngineProcess, start_all
from brimful.cluster.feeding import Feeding
from brimful.cluster.job import Answer, Job
from brimful.cluster.messages import (
    AskReport,
    Report,
    ResetStats,
    Results,
    WarmedUp,
    WarmUp,
    raised,
)
from brimful.cluster.packing import Packed
from brimful.cluster.pool_request import plain
from brimful.cluster.reports import merge_reports
from brimful.cluster.request_desk import TWICE
from brimful.cluster.shared_images import SharedImages
from brimful.cluster.start_engine import StartEngine
from brimful.cluster.submitter import Submitter
from brimful.cluster.work_queue import WorkQueue
from brimful.detections import Detections, failed_detections
from brimful.engine.delivery import Delivery
from brimful.engine.encoded import EncodedResults
from brimful.engine.lifecycle import EngineReport
from brimful.engine.originals import Originals
from brimful.engine.params import check_imgsz, params_of
from brimful.engine.payload import payload_of
from brimful.engine.predictor import Predictor
from brimful.engine.request import LinePolicy
from brimful.errors import EngineStoppedError, UsageError
from brimful.sources.open_source import open_source
from brimful.sources.source import Source
from brimful.spec import Classes, ModelSpec, Size
from brimful.vision.heads.config import PostprocessConfig

ARENA_BYTES = 256 * 2**20
"""Images in memory on their way, per process, in bytes: what an engine's own queue holds."""

CHUNK = 64
"""Images in a message at most: enough that a message's cost vanishes."""

LINGER_S = 0.002
"""Seconds that images wait for a chunk to fill up."""

LEAST_REQUESTS = 16
"""Submitted images that a process may hold at least; four batches where that is more."""

TARGET_S = 1.0
"""Seconds that an image may take through a process before that process is handed fewer."""

CLOSE_TIMEOUT_S = 5.0
FEEDER_TIMEOUT_S = 2.0  # it may wait for input that never comes, and ends with the process
REPORT_TIMEOUT_S = 2.0


class EnginePool(Predictor):
    """Engines on several devices, a process each; a `Predictor`, as `brimful.Engine` is.

    The parent never touches a device. Processes take images as they have room, so the faster one
    does more. One that dies loses no image: the others run what it held. An image with which a
    second process crashes gets an error; a process whose device is broken casts no doubt on its
    images. The pool stops when no process is left. It runs one source at a time, and submitted
    images beside it.

    Example:
        >>> start = functools.partial(brimful.load, "yolo26n.pt", precision="fp16")
        >>> with EnginePool(start, parse_devices("0,1")) as pool:
        ...     for detections in pool.predict("photos/"):
        ...         ...
    """

    def __init__(
        self,
        start: StartEngine,
        devices: Sequence[str],
        *,
        first_alone: bool = False,
        arena_bytes: int = ARENA_BYTES,
    ) -> None:
        """Start the processes and wait until every engine runs.

        Args:
            start: Starts the engine of a device, in its process.
            devices: One process each.
            first_alone: The others load when the first has loaded: so that what it puts into the
                artifact cache is not built once per process.
            arena_bytes: Bytes of images in memory on their way, per process.

        Raises:
            UsageError: There is no device.
            BrimfulError: What starting an engine raised.
            EngineStoppedError: A process ended while it loaded.
        """
        if not devices:
            raise UsageError("an engine pool needs at least one device")
        self.devices = tuple(devices)
        self._source_s = self._sink_s = 0.0
        self._started = time.perf_counter()
        self._closing = threading.Lock()
        self._process = os.getpid()
        self._delivery = Delivery()
        arena = Arena(arena_bytes * len(devices))
        processes: list[EngineProcess] = []
        try:
            ready = start_all(processes, start, devices, arena, first_alone=first_alone)
        except BaseException:
            for process in processes:
                process.kill()
                process.close()
            arena.close()
            raise
        self.pids = tuple(process.pid or 0 for process in processes)
        self._spec: ModelSpec = ready.spec
        self._description = ready.description
        self._postprocess = ready.postprocess
        self._imgsz = ready.imgsz
        queue = ready.queue * len(devices)
        self._shared = SharedImages(arena)
        batch = int(ready.description["batch"])
        # More than any engine takes in: its queue, and every slot twice.
        most = 256 + 32 * batch
        self.chunk = min(CHUNK, max(8, batch))
        self.window = 4 * most * len(devices)
        least = 4 * max(batch, self.chunk)
        self._dispatcher = Dispatcher(
            processes,
            self._shared,
            ready.spec,
            lambda: Allowance(least=least, most=max(least, most), target_s=TARGET_S),
            queue=queue,
            per_process=max(LEAST_REQUESTS, 4 * batch),
        )
        self._submitter = Submitter(
            self._dispatcher, self._shared, ready.spec, self._delivery, queue=queue
        )
        atexit.register(self.close)

    # Whole sources ----------------------------------------------------------------------------

    def stream(
        self,
        source: object,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
        imgsz: int | tuple[int, int] | None = None,
        keep_images: bool = False,
    ) -> Iterator[list[Detections]]:
        """Run every image of a source, handing out whatever is ready at a time.

        Args:
            source: As `Engine.stream` takes it. It is closed at the end.
            conf: See `Engine.stream`, as for all that follow.
            iou: See there.
            max_det: See there.
            classes: See there.
            imgsz: See there.
            keep_images: See there.

        Returns:
            Detections in the source's order, in lists of at least one. The job begins when the
            first one is asked for.

        Raises:
            UsageError: There is no such source, or nothing in it, or an option makes no sense.
            EngineStoppedError: The pool was closed or drained, runs another source, or has no
                process left; also while results are asked for.
            DeviceFailedError: No process is left, and the last one's device is broken.
        """
        self._check_usable()
        check_imgsz(imgsz, self._imgsz, self.spec.stride)
        params = self._params(conf, iou, max_det, classes)
        images = source if isinstance(source, Source) else open_source(source)
        originals = Originals(images, keep_images=keep_images)
        answers = self._run(originals, params, encoded=False)
        return originals.attach(pickle.loads(body) for _, body in answers)

    def stream_encoded(
        self,
        source: object,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
    ) -> Iterator[EncodedResults]:
        """Run every image of a source; the processes encode the results.

        It costs the parent half of what `stream` does, which makes objects of every image, and the
        encoding nothing (benchmarks/results/pool_overhead.json). Arguments and errors are those of
        `stream`.

        Returns:
            JSON lines in the source's order, of at least one image at a time.
        """
        self._check_usable()
        params = self._params(conf, iou, max_det, classes)
        images = source if isinstance(source, Source) else open_source(source)
        return (
            EncodedResults(results.count, results.failures, results.found, body)
            for results, body in self._run(images, params, encoded=True)
        )

    def _run(
        self, images: Source, params: PostprocessConfig | None, *, encoded: bool
    ) -> Iterator[Answer]:
        queue: WorkQueue[Packed, Answer] = WorkQueue(
            window=self.window, chunk=self.chunk, linger_s=LINGER_S
        )

        def lost(item: Packed, reason: str) -> Answer:
            index, key, frame, pts_ms, _ = item
            error = f"{TWICE}: {reason}"
            result = failed_detections(
                self.spec, key, index, "runtime", error, frame=frame, pts_ms=pts_ms
            )
            return Results(0, 1, 1, 0), encode([result], encoded=encoded)

        job = Job(encoded, lost, queue, params)
        jobs = self._dispatcher.jobs
        feeding = Feeding(images, job, jobs, self._shared, self._count_source)
        feeder = threading.Thread(target=feeding.run, name="brimful-source", daemon=True)
        try:
            self._dispatcher.begin(job)
            feeder.start()
            while (answer := jobs.answer(job)) is not None:
                started = time.perf_counter()
                yield answer
                self._sink_s += time.perf_counter() - started
        finally:
            jobs.finish(job)
            close = getattr(images, "close", None)
            if close is not None:
                close()
            if feeder.ident is not None:
                feeder.join(FEEDER_TIMEOUT_S)

    def _count_source(self, seconds: float) -> None:
        self._source_s += seconds

    # Single images ----------------------------------------------------------------------------

    def submit(
        self,
        image: object,
        *,
        key: str = "image",
        client: Hashable = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
        priority: int = 0,
        deadline_ms: float | None = None,
        line: LinePolicy = "fifo",
        copy: bool = True,
        wait: bool = True,
    ) -> Future[Detections]:
        """Run one image on the process that holds the fewest of them.

        When its process crashes it is run once more, by a process that runs nothing else then; when
        that crashes too, its result has the failure `runtime`. A process whose device is broken
        does not count.

        Args:
            image: A path, encoded bytes, or uint8 pixels (height, width, 3) in BGR.
            key: The name its result carries.
            client: Whom it is for; clients share the devices fairly. It stays in this process.
            conf: Confidence that its detections must be above; the engines' by default.
            iou: Largest overlap of two boxes of a class that both stay, likewise.
            max_det: Most detections, likewise.
            classes: Ids and names of the classes to report, likewise.
            priority: Images of a higher number go first.
            deadline_ms: Milliseconds from now after which the result is not wanted any more.
            line: `newest` to replace what the client has waiting for a process: it gets a result
                whose `failure` is `overload`. What a process holds is not replaced.
            copy: Without meaning here: pixels are always copied, to where processes read them.
            wait: Wait while there is no room, in the queue or for the pixels.

        Returns:
            A future of the detections; an image that could not be run has `error` and `failure`
            set. Its callbacks run on a thread of their own. Cancelled before it was sent to a
            process, it is not run.

        Raises:
            UsageError: `image` is none of these, or an option makes no sense.
            QueueFullError: There is no room, and `wait` is False.
            EngineStoppedError: The pool was closed or drained, or no process is left.
            DeviceFailedError: No process is left, and the last one's device is broken.
        """
        self._check_usable()
        params = self._params(conf, iou, max_det, classes)
        request = self._submitter.request(
            key, client, params, priority=priority, deadline_ms=deadline_ms, line=line
        )
        self._submitter.submit(request, payload_of(image, copy=False), wait=wait)
        return request.future

    def _params(
        self,
        conf: float | None,
        iou: float | None,
        max_det: int | None,
        classes: Classes | None,
    ) -> PostprocessConfig | None:
        """Return what a request reports, fit to travel, or None for the engines' setting."""
        params = params_of(
            self._postprocess, self.spec, conf=conf, iou=iou, max_det=max_det, classes=classes
        )
        return None if params is None else plain(params)

    # The pool itself --------------------------------------------------------------------------

    def warm_up(self, canvases: Iterable[Size] | None = None) -> list[Size]:
        """Run every canvas once on every device; see `Engine.warm_up`.

        Args:
            canvases: (height, width) of each; by default all that the engines can choose.

        Returns:
            The canvases that were run.

        Raises:
            RuntimeFailedError: One of them could not be run on one of the devices.
            EngineStoppedError: The pool was closed or drained, or no process is left.
        """
        self._check_usable()
        self._dispatcher.check_open()
        chosen = None if canvases is None else [(int(h), int(w)) for h, w in canvases]
        replies = self._dispatcher.ask(WarmUp(chosen), WarmedUp, None)
        for reply in replies:
            if reply.error is not None:
                raise raised(reply.error)
        self._dispatcher.check_open()
        return replies[0].canvases

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing more and finish what was taken; `close` is all that may follow.

        A job ends with EngineStoppedError once it has the results of what was taken of it, unless
        that is all of it.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything is finished.
        """
        return self._dispatcher.drain(timeout)

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._spec

    @property
    def health(self) -> str:
        """`ok`, or which processes died and why; the others go on."""
        return "; ".join(self._dispatcher.deaths) or "ok"

    def reset_stats(self) -> None:
        """Start measuring anew."""
        self._source_s = self._sink_s = 0.0
        self._started = time.perf_counter()
        self._dispatcher.tell(ResetStats())

    def report(self) -> EngineReport:
        """Return how the stages spent their time since the start or the last reset.

        Stages are summed over the processes that are alive.
        """
        elapsed = time.perf_counter() - self._started
        replies = self._dispatcher.ask(AskReport(), Report, REPORT_TIMEOUT_S)
        return merge_reports(
            [reply.report for reply in replies],
            source_s=self._source_s,
            sink_s=self._sink_s,
            elapsed_s=elapsed,
        )

    def describe(self) -> dict[str, str | int]:
        """Return what decides speed and results: an engine's, and the devices.

        Threads and workers are those of one process.
        """
        return {**self._description, "devices": " ".join(self.devices)}

    def close(self) -> None:
        """Stop every process; what is in flight fails. Returns when all have ended."""
        if os.getpid() != self._process:
            return  # a child's copy: threads and processes are the parent's
        atexit.unregister(self.close)
        with self._closing:
            self._dispatcher.close(CLOSE_TIMEOUT_S)
            self._shared.close()
        self._delivery.close(CLOSE_TIMEOUT_S)

    def _check_usable(self) -> None:
        if os.getpid() != self._process:
            raise EngineStoppedError(
                f"this engine pool runs in process {self._process}; threads do not survive a fork, "
                "so start another one in this process"
            )
        self._dispatcher.check_open()
