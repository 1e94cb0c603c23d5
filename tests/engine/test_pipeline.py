"""The pipeline with fewer slots than an engine would give it."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future

import pytest
from brimful.engine.owners import FutureOwner
from brimful.engine.work import Work
from engine_kit import GATED, PATIENCE_S, Gate, eventually, gray, jpeg, level_of

from brimful.engine.config import EngineConfig
from brimful.engine.pipeline import Pipeline
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.stats import StageStats
from brimful.errors import EngineStoppedError
from brimful.runtimes.debug import DebugFaults, DebugRuntime
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
        eager=None,
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
            eager=eager,
            encoded=encoded,
            **sleeping,
        )
        config = EngineConfig(queue=1000)
        spec = self.runtime.spec
        policy = CanvasPolicy.for_model(spec, canvas, 320)
        self.preprocess = HostPreprocess(spec, policy, config.limits, self.runtime.decodes)
        self.pipeline = Pipeline(
            self.runtime,
            self.preprocess,
            build_postprocess(spec, config.postprocess),
            config,
            StageStats(),
            workers=workers,
            slots=slots,
            chunk=chunk,
            on_death=lambda error: None,
        )

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *_) -> None:
        self.pipeline.stop(EngineStoppedError("the test is over"))
        assert self.pipeline.join(PATIENCE_S) == []
        self.runtime.close()

    def submit(self, pixels) -> Future:
        future: Future = Future()
        image = SourceImage(index=0, key="x", payload=pixels)
        assert self.pipeline.admit([Work(image, FutureOwner(future, "source"))], wait=False)
        return future


@pytest.mark.parametrize("slots", [1, 2, 3, 7])
@pytest.mark.parametrize(("workers", "concurrency"), [(1, 1), (4, 1), (8, 3)])
@pytest.mark.parametrize("canvas", ["auto", "exact"])
@pytest.mark.parametrize(("encoded", "chunk"), [(None, 1), ("decode", 32)])
def test_a_mix_of_canvases_with_few_slots_comes_to_its_end(
    slots, workers, concurrency, canvas, encoded, chunk
):
    random_ = random.Random(slots * workers)
    sizes = [(random_.randint(20, 300), random_.randint(20, 300)) for _ in range(50)]
    images = [(i % 256, *random_.choice(sizes)) for i in range(150)]
    faults = DebugFaults(fail_forwards=frozenset({2}), memory_images=2)
    with Harness(
        slots=slots,
        workers=workers,
        concurrency=concurrency,
        canvas=canvas,
        faults=faults,
        encoded=encoded,
        chunk=chunk,
    ) as harness:
        busiest = 0
        allocate = harness.runtime.allocate

        def counted(*arguments, **keywords):
            nonlocal busiest
            busiest = max(busiest, harness.pipeline._slots.busy)
            return allocate(*arguments, **keywords)

        harness.runtime.allocate = counted
        # with encoded, some all the same come as pixels
        made = [gray if encoded is None or image[0] % 4 == 0 else jpeg for image in images]
        futures = [harness.submit(make(*image)) for make, image in zip(made, images, strict=True)]
        for (level, height, width), future in zip(images, futures, strict=True):
            result = future.result(PATIENCE_S)
            assert level_of(result) == level
            assert (result.height, result.width) == (height, width)
        assert 1 <= busiest <= slots
        assert harness.pipeline.inflight == 0


def gathered(harness: Harness) -> int:
    """Return how many images wait in batches, once none is on its way there."""
    pipeline = harness.pipeline
    admitted = pipeline.inflight
    with pipeline._lock:
        running = sum(len(flight.batch.members) for flight in pipeline._flights._flights.values())
        waiting = len(pipeline._batcher)
    return waiting if running + waiting == admitted else -1


@pytest.mark.parametrize(("eager", "batches"), [(1, [1, 3, 2]), (3, [1, 1, 1, 3])])
def test_what_comes_beside_a_forward_becomes_one_batch_unless_the_device_wants_more(eager, batches):
    gate = Gate()
    with Harness(slots=8, batch=3, concurrency=3, eager=eager, faults=GATED, sleep=gate) as harness:
        futures = []
        for i in range(3):
            futures.append(harness.submit(gray(i)))
            running = min(i + 1, eager)
            gate.await_waiting(running)
            assert gate.waiting == running
        # One image more fills the batch of those that wait, which may go ahead.
        more = [harness.submit(gray(i)) for i in (3, 4, 5)]
        left = 2 if eager == 1 else 0
        eventually(lambda: gathered(harness) == left, "the others have gathered")
        gate.open()
        found = [level_of(future.result(PATIENCE_S)) for future in [*futures, *more]]
        assert found == list(range(6))
        assert sum(harness.runtime.batches) == 6
        assert sorted(harness.runtime.batches) == sorted(batches)


def test_all_workers_fill_the_batch_of_a_slot_that_comes_free():
    """Who waited for a slot joins the batch that another one of them opened in it."""
    gate = Gate()
    with Harness(slots=1, workers=3, batch=3, faults=GATED, sleep=gate) as harness:
        first = harness.submit(gray(0))
        gate.await_waiting()
        futures = [harness.submit(gray(i)) for i in (1, 2, 3)]
        waiters = harness.pipeline._batches.freed._waiters
        eventually(lambda: len(waiters) == 3, "all workers wait for the slot")
        together = threading.Barrier(3)
        write = harness.preprocess.write

        def write_together(*arguments) -> None:
            together.wait(PATIENCE_S / 3)
            write(*arguments)

        harness.preprocess.write = write_together
        gate.open()
        assert [level_of(f.result(PATIENCE_S)) for f in [first, *futures]] == [0, 1, 2, 3]
        assert harness.runtime.batches == [1, 3]


def test_all_workers_fill_the_batch_of_a_slot_that_is_allocated():
    with Harness(slots=2, workers=3, batch=3) as harness:
        allowed = threading.Event()
        allocate = harness.runtime.allocate

        def allocate_late(canvas, *, capacity=None):
            assert allowed.wait(PATIENCE_S)
            return allocate(canvas, capacity=capacity)

        harness.runtime.allocate = allocate_late
        futures = [harness.submit(gray(i)) for i in (1, 2, 3)]
        waiters = harness.pipeline._batches.freed._waiters
        eventually(lambda: len(waiters) == 2, "two wait while the third allocates")
        together = threading.Barrier(3)
        write = harness.preprocess.write

        def write_together(*arguments) -> None:
            together.wait(PATIENCE_S / 3)
            write(*arguments)

        harness.preprocess.write = write_together
        allowed.set()
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == [1, 2, 3]
        assert harness.runtime.batches == [3]


def test_a_second_batch_is_ahead_and_no_third():
    gate = Gate()
    with Harness(slots=9, workers=1, batch=1, faults=GATED, sleep=gate) as harness:
        futures = [harness.submit(gray(i)) for i in range(6)]
        gate.await_waiting()
        flights = harness.pipeline._flights
        batcher = harness.pipeline._batcher
        eventually(lambda: len(batcher) == 4, "four wait in batches")
        assert len(flights) == 2
        gate.open()
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == list(range(6))
        assert len(flights) == 0


def test_a_slot_that_cannot_be_allocated_stops_nobody_from_failing():
    """While one worker allocates, others wait for it; all get the error."""
    with Harness(slots=2, workers=3) as harness:
        entered, leave = threading.Event(), threading.Event()

        def allocate(canvas, *, capacity=None):
            entered.set()
            assert leave.wait(PATIENCE_S)
            raise MemoryError("no memory for a slot")

        harness.runtime.allocate = allocate
        futures = [harness.submit(gray(i)) for i in range(3)]
        assert entered.wait(PATIENCE_S)
        waiters = harness.pipeline._batches.freed._waiters
        eventually(lambda: len(waiters) == 2, "the others wait")
        leave.set()
        for future in futures:
            error = future.exception(PATIENCE_S)
            assert isinstance(error, EngineStoppedError) and "no memory for a slot" in str(error)
