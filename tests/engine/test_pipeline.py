"""The pipeline with fewer slots than an engine would give it."""

from __future__ import annotations

import random
import threading

import pytest
from engine_kit import GATED, PATIENCE_S, Gate, eventually, gray, jpeg, level_of
from pipeline_kit import Harness

from brimful.errors import EngineStoppedError
from brimful.runtimes.debug import DebugFaults


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
            busiest = max(busiest, harness.load().slots)
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
        assert harness.load().live == 0


@pytest.mark.parametrize(("partial_batches_below", "batches"), [(1, [1, 3, 2]), (3, [1, 1, 1, 3])])
def test_what_comes_beside_a_forward_becomes_one_batch_unless_the_device_wants_more(
    partial_batches_below, batches
):
    gate = Gate()
    with Harness(
        slots=8,
        batch=3,
        concurrency=3,
        partial_batches_below=partial_batches_below,
        faults=GATED,
        sleep=gate,
    ) as harness:
        futures = []
        for i in range(3):
            futures.append(harness.submit(gray(i)))
            running = min(i + 1, partial_batches_below)
            gate.await_waiting(running)
            assert gate.waiting == running
        # One image more fills the batch of those that wait, which may go ahead.
        more = [harness.submit(gray(i)) for i in (3, 4, 5)]
        left = 2 if partial_batches_below == 1 else 0
        eventually(lambda: harness.gathered(left), "the others have gathered")
        gate.open()
        found = [level_of(future.result(PATIENCE_S)) for future in [*futures, *more]]
        assert found == list(range(6))
        assert sum(harness.runtime.batches) == 6
        assert sorted(harness.runtime.batches) == sorted(batches)


def test_all_workers_fill_the_batch_of_a_slot_that_comes_free():
    """Who waited for room joins the batch that another one of them opened."""
    gate = Gate()
    with Harness(slots=1, workers=3, batch=3, faults=GATED, sleep=gate) as harness:
        first = harness.submit(gray(0))
        gate.await_waiting()
        futures = [harness.submit(gray(i)) for i in (1, 2, 3)]
        assert harness.pipeline.scheduler.load().waiting == 3, "there is no room for them yet"
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
        eventually(lambda: harness.waiting_for_a_slot() == 2, "two wait while the third allocates")
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
        eventually(lambda: harness.gathered(4), "four wait in batches")
        assert harness.load().running == 2
        gate.open()
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == list(range(6))
        assert harness.load().running == 0


@pytest.mark.parametrize("error", [OSError("no slot"), MemoryError("no slot")])
def test_a_slot_that_cannot_be_allocated_leaves_nobody_waiting(error):
    """While one worker allocates, others wait for it. All learn that there is none."""
    with Harness(slots=2, workers=3) as harness:
        entered, leave = threading.Event(), threading.Event()

        def allocate(canvas, *, capacity=None):
            entered.set()
            assert leave.wait(PATIENCE_S)
            raise error

        harness.runtime.allocate = allocate
        futures = [harness.submit(gray(i)) for i in range(3)]
        assert entered.wait(PATIENCE_S)
        eventually(lambda: harness.waiting_for_a_slot() == 2, "the others wait")
        leave.set()
        for future in futures:
            if isinstance(error, MemoryError):
                result = future.result(PATIENCE_S)
                assert result.failure == "runtime"
                assert "no memory for images of canvas 256x320: no slot" in result.error
            else:
                stopped = future.exception(PATIENCE_S)
                assert isinstance(stopped, EngineStoppedError) and "no slot" in str(stopped)
        assert harness.load().live == harness.load().slots == 0
        if isinstance(error, MemoryError):
            del harness.runtime.allocate
            assert level_of(harness.submit(gray(7)).result(PATIENCE_S)) == 7
