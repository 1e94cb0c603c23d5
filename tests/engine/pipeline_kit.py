"""A pipeline of its own on the debug runtime, with as few slots as a test wants."""

from __future__ import annotations

from collections.abc import Hashable
from concurrent.futures import Future

from engine_kit import PATIENCE_S, decode_threads, waits

from brimful.engine.batches import Load
from brimful.engine.config import EngineConfig
from brimful.engine.delivery import Delivery, DetectionsFuture
from brimful.engine.pipeline import Pipeline
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.request import Request, Responder
from brimful.engine.responders import FutureResponder
from brimful.engine.scheduler import Scheduler
from brimful.engine.stats import StageStats
from brimful.errors import EngineStoppedError
from brimful.runtimes.debug import DebugRuntime
from brimful.runtimes.runtime import RuntimeOptions
from brimful.sources.image import SourceImage
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.postprocess import build_postprocess


class Harness:
    """A pipeline on the debug runtime, closed at the end."""

    def __init__(
        self,
        *,
        slots,
        workers=4,
        batch=4,
        concurrency=1,
        partial_batches_below=None,
        faults=None,
        sleep=None,
        canvas="exact",
        encoded=None,
        chunk=1,
    ) -> None:
        options = RuntimeOptions(max_batch=batch)
        sleeping = {} if sleep is None else {"sleep": sleep}
        self.runtime = DebugRuntime(
            options,
            faults,
            concurrency=concurrency,
            partial_batches_below=partial_batches_below,
            encoded=encoded,
            **sleeping,
        )
        config = EngineConfig(queue=1000)
        self.delivery = Delivery()
        spec = self.runtime.spec
        policy = CanvasPolicy.for_model(spec, canvas, 320)
        self.preprocess = HostPreprocess(spec, policy, config.limits, self.runtime.accepts_encoded)
        others = decode_threads()
        self.pipeline = Pipeline(
            self.runtime,
            self.preprocess,
            build_postprocess(spec, config.postprocess),
            config,
            StageStats(),
            workers=workers,
            slots=slots,
            full_cost=320 * 320,
            chunk=chunk,
            on_death=lambda error: None,
        )
        self._workers = [thread for thread in decode_threads() if thread not in others]

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_) -> None:
        self.pipeline.stop(EngineStoppedError("the test is over"))
        assert self.pipeline.join(PATIENCE_S) == []
        self.delivery.close(PATIENCE_S)
        self.runtime.close()

    def waiting_for_a_slot(self) -> int:
        """Return how many workers wait for a slot."""
        return sum(waits(worker, Scheduler.join) for worker in self._workers)

    def load(self) -> Load:
        return self.pipeline.scheduler.load()

    def admit(self, images, responder: Responder, source: Hashable = "source") -> None:
        requests = [
            Request(
                SourceImage(index=number, key="x", payload=pixels),
                responder,
                source,
                number,
                cost=320 * 320,
            )
            for number, pixels in enumerate(images)
        ]
        assert self.pipeline.admit(requests, wait=False) == len(requests)

    def submit(self, pixels, source: Hashable = "source") -> Future:
        future = DetectionsFuture(self.delivery)
        self.admit([pixels], FutureResponder(future), source)
        return future

    def gathered(self, images: int) -> bool:
        """Tell whether so many images wait in batches, and none is on its way there."""
        load = self.load()
        return load.batched == images and load.waiting == load.preparing == 0
