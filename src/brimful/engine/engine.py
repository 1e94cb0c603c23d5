"""Engine: a model on one device, from images to detections."""

from __future__ import annotations

import atexit
import functools
import logging
import threading
import time
from collections.abc import Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import cv2
import numpy as np

from brimful.detections import Detections
from brimful.engine.batches import Load
from brimful.engine.config import EngineConfig
from brimful.engine.delivery import Delivery, DetectionsFuture
from brimful.engine.encoded import EncodedResults, encode_results
from brimful.engine.feeding import Feeding
from brimful.engine.lifecycle import CLOSE_TIMEOUT_S, EngineReport, Lifecycle
from brimful.engine.originals import Originals
from brimful.engine.params import check_imgsz, params_of
from brimful.engine.payload import bytes_held, payload_of
from brimful.engine.predictor import Predictor
from brimful.engine.request import LinePolicy, Request
from brimful.engine.responders import (
    CallbackResponder,
    FutureResponder,
    OnDone,
)
from brimful.engine.stream import ResultStream
from brimful.errors import (
    QueueFullError,
    RuntimeFailedError,
)
from brimful.runtimes.runtime import Runtime
from brimful.sources.image import SourceImage
from brimful.sources.open_source import open_source
from brimful.sources.source import Source
from brimful.spec import Classes, ModelSpec, Size
from brimful.vision.heads.config import PostprocessConfig

if TYPE_CHECKING:
    import asyncio

FEEDER_TIMEOUT_S = 2.0  # it may wait for input that never comes, and ends with the process

_log = logging.getLogger("brimful")


class Submission:
    """Images that were submitted together."""

    def __init__(self, responder: CallbackResponder) -> None:
        """Keep who is told of them."""
        self._responder = responder

    def cancel(self) -> None:
        """Want no more results: the callback is not called again, and what can be is not run."""
        self._responder.cancel()


class Engine(Predictor):
    """A model on one device. Every method may be called from any thread."""

    def __init__(self, runtime: Runtime, config: EngineConfig | None = None) -> None:
        """Start the engine; it owns the runtime from here on.

        Args:
            runtime: Executes the model.
            config: Everything else.
        """
        self._lifecycle = Lifecycle(runtime, config or EngineConfig())
        self._delivery = Delivery()
        # Native threads that outlive the interpreter abort the process.
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
            source: Anything `open_source` takes (a path, folder, glob, list file, video, array,
                encoded bytes, or a list of these), or a Source. It is closed at the end.
            conf: Confidence that detections must be above, in this source; by default the engine's.
            iou: Largest overlap of two boxes of a class that both stay, likewise.
            max_det: Most detections of an image, at most the engine's.
            classes: Ids and names of the classes to report; by default the engine's.
            imgsz: Only what the engine was loaded with: another size needs another engine.
            keep_images: Keep images that are in memory, and frames of videos, with their
                detections, to be drawn (`Detections.plot`). Files are read once more for that.

        Returns:
            Detections in the source's order, in lists of at least one. The job begins when the
            first one is asked for.

        Raises:
            UsageError: There is no such source, or nothing in it, or an option makes no sense.
            EngineStoppedError: The engine was closed, or one of its stages died; also while
                results are asked for.
        """
        self._lifecycle.check_usable()
        check_imgsz(imgsz, self.imgsz, self.spec.stride)
        params = self._params(conf, iou, max_det, classes)
        images = source if isinstance(source, Source) else open_source(source)
        originals = Originals(images, keep_images=keep_images)
        return originals.attach(self._run(originals, params))

    def stream_encoded(
        self,
        source: object,
        *,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
    ) -> Iterator[EncodedResults]:
        """Run every image of a source; arguments and errors are those of `stream`.

        Returns:
            JSON lines in the source's order, of at least one image at a time.
        """
        self._lifecycle.check_usable()
        params = self._params(conf, iou, max_det, classes)
        images = source if isinstance(source, Source) else open_source(source)
        return (encode_results(results) for results in self._run(images, params))

    def _run(self, images: Source, params: PostprocessConfig | None) -> Iterator[list[Detections]]:
        batch, slots = self.runtime.max_batch, self._lifecycle.slots(self.runtime)
        stream = ResultStream(self.config.queue + 2 * batch * slots)
        lifecycle = self._lifecycle
        feeding = Feeding(
            images, stream, lifecycle.admit, lifecycle.full_cost, lifecycle.stats, params
        )
        feeder = threading.Thread(
            target=feeding.run, args=(self.runtime.video,), name="brimful-source", daemon=True
        )
        try:
            feeder.start()
            iterator = iter(stream)
            while True:
                results = next(iterator, None)
                if results is None:
                    return
                started = time.perf_counter()
                yield results
                self._lifecycle.stats.add("sink", time.perf_counter() - started)
        finally:
            stream.close()
            self._lifecycle.pipeline.scheduler.wake_feeders()  # one may wait for room for nobody
            close = getattr(images, "close", None)
            if close is not None:
                close()
            if feeder.ident is not None:
                feeder.join(FEEDER_TIMEOUT_S)

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
        """Run one image.

        Args:
            image: A path, encoded bytes, or uint8 pixels (height, width, 3) in BGR.
            key: The name its result carries.
            client: Whom it is for; clients share the device fairly.
            conf: Confidence that its detections must be above; the engine's by default.
            iou: Largest overlap of two boxes of a class that both stay, likewise.
            max_det: Most detections, at most the engine's.
            classes: Ids and names of the classes to report, likewise.
            priority: Images of a higher number go first.
            deadline_ms: Milliseconds from now after which the result is not wanted any more.
            line: `newest` to replace what the client has waiting: it gets a result whose `failure`
                is `overload`.
            copy: Copy pixels, so that the caller may write to the array at once. With False the
                array belongs to the engine until the future is done.
            wait: Wait while there is no room in the queue.

        Returns:
            A future of the detections; an image that could not be run has `error` and `failure`
            set. Its callbacks run on a thread of their own. Cancelled in time, it is not run.

        Raises:
            UsageError: `image` is none of these, or an option makes no sense.
            QueueFullError: There is no room in the queue, and `wait` is False.
            EngineStoppedError: The engine was closed, or one of its stages died.
        """
        future = DetectionsFuture(self._delivery)
        request = Request(
            SourceImage(index=0, key=key, payload=payload_of(image, copy=copy)),
            FutureResponder(future),
            client,
            params=self._params(conf, iou, max_det, classes),
            priority=priority,
            deadline=_deadline(deadline_ms),
            line=line,
            cost=self._lifecycle.full_cost,
        )
        request.nbytes = bytes_held(request.image)
        if not self._lifecycle.admit([request], wait=wait):
            self._refuse(request, future)
        return future

    def submit_many(
        self,
        images: Sequence[object],
        on_done: OnDone,
        *,
        keys: Sequence[str] | None = None,
        client: Hashable = None,
        conf: float | None = None,
        iou: float | None = None,
        max_det: int | None = None,
        classes: Classes | None = None,
        priority: int = 0,
        deadline_ms: float | None = None,
        copy: bool = True,
    ) -> Submission:
        """Run several images, waiting for room for them; they need no future each.

        Args:
            images: As `submit` takes them.
            on_done: Called once for each image, on a thread of its own, with its position and its
                result, or the error that stopped the engine.
            keys: The name that each result carries; `image` by default.
            client: See `submit`, as for all the others.
            conf: See `submit`.
            iou: See `submit`.
            max_det: See `submit`.
            classes: See `submit`.
            priority: See `submit`.
            deadline_ms: Of all of them; an image for which there was no room by then gets a result
                whose `failure` is `deadline`.
            copy: See `submit`.

        Returns:
            What cancels them.

        Raises:
            UsageError: One of them is no image; none is run.
            EngineStoppedError: The engine was closed, or one of its stages died.
        """
        responder = CallbackResponder(on_done, self._delivery)
        params = self._params(conf, iou, max_det, classes)
        deadline = _deadline(deadline_ms)
        names = ["image"] * len(images) if keys is None else list(keys)
        requests = []
        for number, (image, key) in enumerate(zip(images, names, strict=True)):
            payload = payload_of(image, copy=copy)
            request = Request(
                SourceImage(index=number, key=key, payload=payload),
                responder,
                client,
                number,
                params=params,
                priority=priority,
                deadline=deadline,
                cost=self._lifecycle.full_cost,
            )
            request.nbytes = bytes_held(request.image)
            requests.append(request)
        admitted = self._lifecycle.admit(requests, wait=True) if requests else 0
        late = requests[admitted:]
        if late:
            text = "its deadline passed before there was room for it"
            responder.settle(late, [r.failed(self.spec, "deadline", text) for r in late])
        return Submission(responder)

    async def detect(
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
    ) -> Detections:
        """Run one image without blocking the event loop; arguments and errors are `submit`'s.

        When the task that awaits it is cancelled, the image is not run if that is still possible.
        """
        import asyncio  # 20 ms, of which a job in the shell needs none

        submit = functools.partial(
            self.submit,
            image,
            key=key,
            client=client,
            conf=conf,
            iou=iou,
            max_det=max_det,
            classes=classes,
            priority=priority,
            deadline_ms=deadline_ms,
        )
        try:
            future = submit(wait=False)
        except QueueFullError:
            waiting = asyncio.ensure_future(asyncio.to_thread(submit))
            try:
                future = await asyncio.shield(waiting)
            except asyncio.CancelledError:
                waiting.add_done_callback(_cancel_result)
                raise
        return await asyncio.wrap_future(future)

    def _params(
        self,
        conf: float | None,
        iou: float | None,
        max_det: int | None,
        classes: Classes | None,
    ) -> PostprocessConfig | None:
        """Return what a request reports, None where it takes the engine's setting."""
        return params_of(
            self.config.postprocess,
            self.spec,
            conf=conf,
            iou=iou,
            max_det=max_det,
            classes=classes,
        )

    def _refuse(self, request: Request, future: DetectionsFuture) -> None:
        """Say why a request was not taken in."""
        if request.deadline is not None and time.monotonic() >= request.deadline:
            text = "its deadline passed before there was room for it"
            future.set_result(request.failed(self.spec, "deadline", text))
            return
        raise QueueFullError(
            f"{self.load().waiting} images are waiting; {self.config.queue} may in all, and no "
            "client may take all of that room; try again later"
        )

    def load(self) -> Load:
        """Return how many images are where."""
        return self._lifecycle.pipeline.scheduler.load()

    # The engine itself ------------------------------------------------------------------------

    def warm_up(self, canvases: Iterable[Size] | None = None) -> list[Size]:
        """Run every canvas once, so that no image waits for a compilation.

        Args:
            canvases: (height, width) of each; by default all that the canvas policy can choose,
                none for `--canvas exact`, which knows no bound.

        Returns:
            The canvases that were run.

        Raises:
            RuntimeFailedError: One of them could not be run.
            EngineStoppedError: The engine was closed, or one of its stages died.
        """
        chosen = list(canvases if canvases is not None else self._lifecycle.policy.canvases() or ())
        for canvas in chosen:
            self.runtime.prepare(canvas)
        futures = [self.submit(self._blank(canvas), client="warm-up") for canvas in chosen]
        for canvas, future in zip(chosen, futures, strict=True):
            result = future.result()
            if result.error is not None:
                raise RuntimeFailedError(
                    f"the model does not run on canvas {canvas[0]}x{canvas[1]}: {result.error}"
                )
        return chosen

    def _blank(self, canvas: Size) -> object:
        """Return an empty image: a JPEG where the device decodes, so that no host row is pinned."""
        pixels = np.full((*canvas, 3), 114, np.uint8)
        if self.runtime.accepts_encoded is None:
            return pixels
        return cv2.imencode(".jpg", pixels)[1].tobytes()

    def drain(self, timeout: float | None = None) -> bool:
        """Take nothing more and finish what was taken; `close` is all that may follow.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything is finished.
        """
        return self._lifecycle.drain(timeout)

    def swap(self, runtime: Runtime, timeout: float | None = None) -> None:
        """Go on with another runtime of the same model; see `Lifecycle.swap`.

        Args:
            runtime: Executes the model from now on; the engine owns it.
            timeout: Seconds that the old runtime has to finish at most; after that, what it has
                not finished fails.

        Raises:
            UsageError: Its task or class names are others.
            EngineStoppedError: The engine was closed.
        """
        self._lifecycle.swap(runtime, timeout)

    @property
    def runtime(self) -> Runtime:
        """What executes the model."""
        return self._lifecycle.runtime

    @property
    def spec(self) -> ModelSpec:
        """What the model is."""
        return self._lifecycle.spec

    @property
    def config(self) -> EngineConfig:
        """What it was started with."""
        return self._lifecycle.config

    @property
    def imgsz(self) -> Size:
        """(height, width) of the full canvas."""
        return self._lifecycle.policy.imgsz

    @property
    def health(self) -> str:
        """`ok`, or why the engine serves nothing."""
        return self._lifecycle.health

    @property
    def restarts(self) -> int:
        """How often the stages were restarted after one of them died."""
        return self._lifecycle.restarts

    def reset_stats(self) -> None:
        """Start measuring anew."""
        self._lifecycle.stats.reset()

    def report(self) -> EngineReport:
        """Return how the stages spent their time since the start or the last reset."""
        return self._lifecycle.report()

    def describe(self) -> dict[str, str | int]:
        """Return what decides speed and results, for reports."""
        return self._lifecycle.describe()

    def close(self) -> None:
        """Stop the engine and give its memory back; what is in flight fails."""
        self._lifecycle.close(self._ended)

    def _ended(self) -> None:
        atexit.unregister(self.close)
        self._delivery.close(CLOSE_TIMEOUT_S)


def _deadline(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else time.monotonic() + milliseconds / 1000


def _cancel_result(waiting: asyncio.Future[Future[Detections]]) -> None:
    if not waiting.cancelled() and waiting.exception() is None:
        waiting.result().cancel()
