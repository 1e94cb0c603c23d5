"""Engine: a model on one device, from images to detections."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Hashable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from brimful.detections import Detections
from brimful.engine.config import EngineConfig
from brimful.engine.owners import FutureOwner, StreamOwner
from brimful.engine.pipeline import Pipeline
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.stats import StageStats, StageUse, limiting
from brimful.engine.stream import ResultStream
from brimful.engine.work import Work
from brimful.errors import BrimfulError, EngineStoppedError, UsageError
from brimful.native.read_files import open_reader
from brimful.runtimes.runtime import Runtime
from brimful.runtimes.threads import available_cpus
from brimful.sources.image import Payload, SourceImage
from brimful.sources.memory import MemorySource, is_image_object
from brimful.sources.open_source import open_source
from brimful.sources.source import Source, chunks_of
from brimful.spec import ModelSpec, Size
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.picture import Picture
from brimful.vision.postprocess import build_postprocess
from brimful.vision.surface import Surface

LOOKAHEAD = 16
"""Images that may wait, letterboxed, for their canvas's turn."""

CHUNK = 32
"""Images that a worker reads at a time when the device decodes them."""

CLOSE_TIMEOUT_S = 10.0
FEEDER_TIMEOUT_S = 2.0  # it may wait for input that never comes, and ends with the process


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


class Engine:
    """A model on one device. Every method may be called from any thread."""

    def __init__(self, runtime: Runtime, config: EngineConfig | None = None) -> None:
        """Start the engine; it owns the runtime from here on.

        Args:
            runtime: Executes the model.
            config: Everything else.
        """
        self.config = config or EngineConfig()
        self.runtime = runtime
        self.spec: ModelSpec = runtime.spec
        self._policy = CanvasPolicy.for_model(self.spec, self.config.canvas, self.config.imgsz)
        memory_for = runtime.memory_for
        self._preprocess = HostPreprocess(
            self.spec,
            self._policy,
            self.config.limits,
            runtime.decodes,
            runtime.takes_picture,
            memory_for,
            None if memory_for is None else open_reader(),
        )
        self._postprocess = build_postprocess(self.spec, self.config.postprocess)
        self._workers = self.config.workers or min(8, available_cpus())
        canvases = self._policy.canvases()
        # Enough for what runs, what is ahead, one in postprocess, and an open batch per canvas;
        # and, where batches are small, for the batcher to find several of the same canvas.
        open_batches = len(canvases) if canvases is not None else 4
        open_batches = max(open_batches, LOOKAHEAD // runtime.max_batch)
        self._slots = runtime.concurrency + runtime.ahead + 1 + open_batches
        self._stats = StageStats()
        self._lock = threading.Lock()
        self._closed = False
        self._restarts = 0
        self._pipeline = self._start()
        # Native threads that outlive the interpreter abort the process.
        atexit.register(self.close)

    def __enter__(self) -> Engine:
        """Return the engine itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the engine."""
        self.close()

    def predict(self, source: object) -> Iterator[Detections]:
        """Run every image of a source; see `stream` for what a source may be.

        Yields:
            The detections of each image, in the source's order; a bad image has `error` set.
        """
        for results in self.stream(source):
            yield from results

    def stream(self, source: object) -> Iterator[list[Detections]]:
        """Run every image of a source, handing out whatever is ready at a time.

        Args:
            source: Anything `open_source` takes (a path, folder, glob, list file, video, array,
                encoded bytes, or a list of these), or a Source. It is closed at the end.

        Yields:
            Detections in the source's order, in lists of at least one.

        Raises:
            UsageError: There is no such source, or nothing in it.
            EngineStoppedError: The engine was closed, or one of its stages died.
        """
        images = source if isinstance(source, Source) else open_source(source)
        window = self.config.queue + 2 * self.runtime.max_batch * self._slots
        stream = ResultStream(window, self.config.queue_bytes)
        feeder = threading.Thread(
            target=self._feed, args=(images, stream), name="brimful-source", daemon=True
        )
        feeder.start()
        try:
            iterator = iter(stream)
            while True:
                results = next(iterator, None)
                if results is None:
                    return
                started = time.perf_counter()
                yield results
                self._stats.add("sink", time.perf_counter() - started)
        finally:
            stream.close()
            close = getattr(images, "close", None)
            if close is not None:
                close()
            feeder.join(FEEDER_TIMEOUT_S)

    def submit(
        self,
        image: object,
        *,
        key: str = "image",
        client: Hashable = None,
        deadline_ms: float | None = None,
        wait: bool = True,
    ) -> Future[Detections]:
        """Run one image.

        Args:
            image: A path, encoded bytes, or uint8 pixels (height, width, 3) in BGR.
            key: The name its result carries.
            client: Whom it is for; clients take turns.
            deadline_ms: Milliseconds from now after which the result is not wanted any more.
            wait: Wait while the queue is full.

        Returns:
            A future of the detections; a bad image has `error` set.

        Raises:
            UsageError: `image` is none of these.
            QueueFullError: The queue is full and `wait` is False.
            EngineStoppedError: The engine was closed, or one of its stages died.
        """
        if isinstance(image, str | Path):
            payload: Payload = image
        elif not is_image_object(image):
            raise UsageError(
                f"{type(image).__name__} is no image; expected a path, encoded bytes, a Pillow "
                "image or an array of uint8 pixels (height, width, 3) in BGR"
            )
        else:
            payload = next(iter(MemorySource([image]))).payload
        future: Future[Detections] = Future()
        work = Work(SourceImage(index=0, key=key, payload=payload), FutureOwner(future, client))
        if deadline_ms is not None:
            work.deadline = time.monotonic() + deadline_ms / 1000
        if not self._pipeline.admit([work], wait=wait):
            raise QueueFullError(f"{self.config.queue} images are waiting already; try again later")
        return future

    def warm_up(self, canvases: Iterable[Size] | None = None) -> list[Size]:
        """Run every canvas once, so that no image waits for a compilation.

        Args:
            canvases: (height, width) of each; by default all that the canvas policy can choose,
                none for `--canvas exact`, which knows no bound.

        Returns:
            The canvases that were run.
        """
        chosen = list(canvases if canvases is not None else self._policy.canvases() or ())
        blanks = [np.full((*canvas, 3), 114, np.uint8) for canvas in chosen]
        for future in [self.submit(blank, client="warm-up") for blank in blanks]:
            future.result()
        return chosen

    @property
    def health(self) -> str:
        """`ok`, or why the engine serves nothing."""
        error = self._pipeline.error
        return "ok" if error is None else str(error)

    @property
    def restarts(self) -> int:
        """How often the stages were restarted after one of them died."""
        return self._restarts

    def reset_stats(self) -> None:
        """Start measuring anew."""
        self._stats.reset()

    def report(self) -> EngineReport:
        """Return how the stages spent their time since the start or the last reset."""
        uses = self._stats.use(dict.fromkeys(("decode", "compile", "preprocess"), self._workers))
        return EngineReport(uses, limiting(uses), self._stats.batches())

    def describe(self) -> dict[str, str | int]:
        """Return what decides speed and results, for reports."""
        return {
            **self.runtime.describe(),
            "canvas": self.config.canvas,
            "batch": self.runtime.max_batch,
            "workers": self._workers,
        }

    def close(self) -> None:
        """Stop the engine and give its memory back; what is in flight fails."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pipeline = self._pipeline
        atexit.unregister(self.close)
        try:
            pipeline.stop(EngineStoppedError("the engine was closed"))
        finally:
            pipeline.join(CLOSE_TIMEOUT_S)
            self.runtime.close()

    def _start(self) -> Pipeline:
        return Pipeline(
            self.runtime,
            self._preprocess,
            self._postprocess,
            self.config,
            self._stats,
            workers=self._workers,
            slots=self._slots,
            chunk=1 if self.runtime.decodes is None else CHUNK,
            on_death=self._stage_died,
        )

    def _stage_died(self, error: BrimfulError) -> None:
        with self._lock:
            if self._closed or self.config.on_stage_death == "stop":
                return
            self._restarts += 1
            self._pipeline = self._start()

    def _feed(self, images: Iterable[SourceImage], stream: ResultStream) -> None:
        """Bring a source's images in, on a thread of its own."""
        owner = StreamOwner(stream)
        try:
            chunks = chunks_of(images, self.runtime.video)
            while True:
                started = time.perf_counter()
                chunk = next(chunks, None)
                self._stats.add("source", time.perf_counter() - started)
                if chunk is None:
                    break
                while chunk:
                    numbers = stream.enter_some([_bytes_held(image) for image in chunk])
                    if numbers is None:
                        return
                    works = [Work(i, owner, n) for i, n in zip(chunk, numbers, strict=False)]
                    chunk = chunk[len(numbers) :]
                    try:
                        self._pipeline.admit(works, wait=True)
                    except BaseException as error:
                        stream.fail(error)
                        return
                    del works  # nor does a feeder that waits keep images alive
            stream.end()
        except BaseException as error:
            stream.end(error)


class QueueFullError(BrimfulError):
    """The engine has as many images waiting as it takes."""

    http_status = 429


def _bytes_held(image: SourceImage) -> int:
    payload = image.payload
    if isinstance(payload, str):
        return 0
    if isinstance(payload, np.ndarray | Picture | Surface):
        return payload.nbytes
    return len(payload) if isinstance(payload, bytes) else 0
