"""Requests: cancelled, expired, prioritised, bounded, and told apart by how they fail."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from concurrent.futures import Future

import numpy as np
import pytest
from engine_kit import (
    GATED,
    PATIENCE_S,
    Gate,
    ListedSource,
    brimful_threads,
    debug_engine,
    eventually,
    gray,
    level_of,
)

from brimful.detections import Detections
from brimful.errors import (
    DeviceFailedError,
    EngineStoppedError,
    ModelError,
    QueueFullError,
    RuntimeFailedError,
    UsageError,
)
from brimful.runtimes.debug import DebugFaults, DebugRuntime
from brimful.runtimes.runtime import OutOfMemoryError, RuntimeOptions


class Broken(DebugRuntime):
    """A device that fails every forward from some number on, until it is mended."""

    def __init__(self, *, after: int = 0, error: Exception | None = None, batch: int = 4) -> None:
        super().__init__(RuntimeOptions(max_batch=batch))
        self.after = after
        self.error = error or RuntimeFailedError("the device is lost")
        self.mended = threading.Event()

    def _forward(self, slot, count, params):
        outputs = super()._forward(slot, count, params)
        if len(self.batches) > self.after and not self.mended.is_set():
            raise self.error
        return outputs


def engine_on(runtime, **config):
    from brimful.engine.config import EngineConfig
    from brimful.engine.engine import Engine

    return Engine(
        runtime, EngineConfig(**{"imgsz": 64, "canvas": "square", "workers": 2, **config})
    )


# Callbacks ----------------------------------------------------------------------------------------


def test_a_callback_may_submit_to_a_full_queue():
    """It used to run on the postprocess thread, which alone frees what it waited for."""
    with debug_engine(queue=2, batch=1, workers=1) as engine:
        followers: list[Future] = []
        done = threading.Event()

        def submit_more(future: Future) -> None:
            followers.extend(engine.submit(gray(i)) for i in range(200))
            done.set()

        engine.submit(gray(1)).add_done_callback(submit_more)
        assert done.wait(PATIENCE_S)
        for i, future in enumerate(followers):
            assert level_of(future.result(PATIENCE_S)) == i


def test_a_slow_callback_delays_no_result():
    with debug_engine() as engine:
        held = threading.Event()
        slow = engine.submit(gray(1))
        slow.result(PATIENCE_S)
        slow.add_done_callback(lambda future: held.wait(PATIENCE_S))
        results = [level_of(r) for r in engine.predict([gray(i) for i in range(50)])]
        assert results == list(range(50))
        held.set()


def test_a_callback_that_exits_stops_nothing():
    with debug_engine() as engine:
        future = engine.submit(gray(1))

        def leave(_: Future) -> None:
            raise SystemExit

        future.add_done_callback(leave)
        assert level_of(future.result(PATIENCE_S)) == 1
        assert level_of(engine.submit(gray(2)).result(PATIENCE_S)) == 2
        assert engine.health == "ok"


def test_a_callback_may_close_the_engine():
    before = brimful_threads()
    engine = debug_engine()
    closed = threading.Event()

    def close(_: Future) -> None:
        engine.close()
        closed.set()

    engine.submit(gray(1)).add_done_callback(close)
    assert closed.wait(PATIENCE_S)
    eventually(lambda: brimful_threads() <= before, "every thread has ended")


# A broken device ----------------------------------------------------------------------------------


def test_a_broken_device_stops_the_job_and_writes_no_error_row():
    engine = engine_on(Broken(after=3))
    seen: list[Detections] = []
    with pytest.raises(DeviceFailedError, match="also a blank image: the device is lost"):
        for result in engine.predict(ListedSource(gray(i % 256) for i in range(2000))):
            seen.append(result)
    assert all(result.error is None for result in seen)
    assert len(seen) < 40
    assert "the device is lost" in engine.health
    engine.close()


def test_a_device_that_recovers_costs_only_what_failed_twice():
    """Two forwards fail, and the blank image after them succeeds: the image was at fault."""
    with debug_engine(batch=1, faults=DebugFaults(fail_forwards=frozenset({1, 2}))) as engine:
        result = engine.submit(gray(1)).result(PATIENCE_S)
        assert (result.failure, engine.runtime.batches) == ("runtime", [1, 1, 1])
        assert level_of(engine.submit(gray(2)).result(PATIENCE_S)) == 2


def test_poison_after_poison_is_not_a_broken_device():
    with debug_engine(batch=1, faults=DebugFaults(poison_level=7)) as engine:
        for _ in range(20):
            assert engine.submit(gray(7)).result(PATIENCE_S).failure == "runtime"
        assert level_of(engine.submit(gray(8)).result(PATIENCE_S)) == 8


def test_a_device_without_any_memory_stops_the_job():
    engine = engine_on(Broken(error=OutOfMemoryError("another process has it all")))
    with pytest.raises(DeviceFailedError, match="another process has it all"):
        for _ in engine.predict(ListedSource(gray(i % 256) for i in range(2000))):
            pass
    engine.close()


def test_a_slot_without_memory_fails_its_canvas_only():
    with debug_engine(canvas="exact", imgsz=320) as engine:
        allocate = engine.runtime.allocate

        def limited(canvas, *, capacity=None):
            if canvas[0] > 200:
                raise MemoryError("too much")
            return allocate(canvas, capacity=capacity)

        engine.runtime.allocate = limited
        large, small = engine.submit(gray(1, 320, 320)), engine.submit(gray(2, 20, 320))
        assert large.result(PATIENCE_S).failure == "runtime"
        assert "no memory for images of canvas 320x320" in large.result().error
        assert level_of(small.result(PATIENCE_S)) == 2
        assert engine.health == "ok"


def test_warm_up_fails_where_the_forward_fails():
    with (
        debug_engine(faults=DebugFaults(poison_level=114), canvas="auto", imgsz=160) as engine,
        pytest.raises(RuntimeFailedError, match=r"does not run on canvas .*poison"),
    ):
        engine.warm_up()


# One image's own fault ----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["decode", "place", "write"])
@pytest.mark.parametrize("error", [MemoryError("10 GiB"), OverflowError("too large"), KeyError(1)])
def test_whatever_an_image_raises_is_its_own_result(stage, error):
    with debug_engine(batch=4) as engine:
        inner = getattr(engine._lifecycle.preprocess, stage)
        raised: list[bool] = []

        def once(*arguments):
            if not raised:
                raised.append(True)
                raise error
            return inner(*arguments)

        setattr(engine._lifecycle.preprocess, stage, once)
        results = list(engine.predict([gray(i) for i in range(9)]))
        bad = [r for r in results if r.error is not None]
        assert len(bad) == 1 and bad[0].failure == "image"
        assert [level_of(r) for r in results if r.error is None] == [
            i for i in range(9) if i != bad[0].index
        ]
        assert engine.health == "ok"
        assert engine.load().live == engine.load().running == 0


def test_a_postprocess_that_fails_for_one_image_fails_that_one():
    with debug_engine(batch=4) as engine:
        pipeline = engine._lifecycle.pipeline
        inner = pipeline._postprocess

        def picky(outputs, placed, params=None):
            if any(p.key == "5" for p in placed):
                raise IndexError("class 99")
            return inner(outputs, placed, params)

        pipeline._postprocess = picky
        results = list(engine.predict([gray(i) for i in range(12)]))
        assert [r.index for r in results if r.error] == [5]
        assert results[5].failure == "runtime" and "class 99" in results[5].error
        assert [level_of(r) for r in results if not r.error] == [0, 1, 2, 3, 4, *range(6, 12)]


# Memory -------------------------------------------------------------------------------------------


def test_a_buffer_may_be_written_again_once_submit_returns():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=4) as engine:
        buffer = gray(0)
        futures = []
        for level in range(10):
            buffer[:] = level
            futures.append(engine.submit(buffer))
        buffer[:] = 99
        gate.open()
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == list(range(10))


def test_an_array_may_be_handed_over_without_a_copy():
    with debug_engine() as engine:
        image = np.ascontiguousarray(gray(3))
        seen: list[np.ndarray] = []
        place = engine._lifecycle.preprocess.place
        engine._lifecycle.preprocess.place = lambda pixels: (seen.append(pixels), place(pixels))[1]
        engine.submit(image, copy=False).result(PATIENCE_S)
        engine.submit(image).result(PATIENCE_S)
        assert np.may_share_memory(seen[0], image)
        assert not np.may_share_memory(seen[1], image)


def test_bytes_handed_to_submit_are_bounded():
    image = gray(1, 100, 100)
    gate = Gate()
    with debug_engine(
        faults=GATED, sleep=gate, batch=1, queue=100, queue_bytes=10 * image.nbytes
    ) as engine:
        taken = []
        with pytest.raises(QueueFullError):
            for _ in range(100):
                taken.append(engine.submit(image, wait=False))
        assert 4 <= len(taken) <= 10
        assert engine.load().nbytes <= 10 * image.nbytes
        gate.open()
        for future in taken:
            future.result(PATIENCE_S)
        eventually(lambda: engine.load().nbytes == 0, "all of it was given back")


def test_an_image_larger_than_the_bound_runs_alone():
    with debug_engine(queue_bytes=100) as engine:
        assert level_of(engine.submit(gray(4)).result(PATIENCE_S)) == 4


# Fairness -----------------------------------------------------------------------------------------


def test_a_job_leaves_room_for_a_client_that_does_not_wait():
    with debug_engine(queue=32, batch=4, workers=2, faults=DebugFaults(batch_ms=1)) as engine:
        job = engine.predict(ListedSource(gray(i % 256) for i in range(10**9)))
        for _ in range(20):
            next(job)
        refused = 0
        for i in range(100):
            try:
                future = engine.submit(gray(i), client="camera", wait=False)
            except QueueFullError:
                refused += 1
                continue
            assert level_of(future.result(PATIENCE_S)) == i
            next(job)
        assert refused == 0
        job.close()


def test_a_client_beside_a_job_waits_for_what_is_on_the_device_only():
    """The forwards between the submit and its own: one that runs and one that is queued."""
    gate = Gate()
    with debug_engine(
        faults=GATED, sleep=gate, batch=4, workers=2, queue=64, max_delay_ms=1e6
    ) as engine:
        results: list[Detections] = []
        job = threading.Thread(
            target=lambda: results.extend(engine.predict([gray(i % 256) for i in range(400)]))
        )
        job.start()
        for _ in range(10):
            gate.open(1)
        eventually(lambda: gate.passed == 10 and gate.waiting == 1, "ten forwards have run")
        # As full as the job makes it: workers have nowhere to bring more.
        eventually(lambda: engine.load().preparing == 0, "the workers wait")
        eventually(lambda: engine.load().waiting > 30, "the queue is full of the job's")
        future = engine.submit(gray(5), client="camera", wait=False)
        eventually(lambda: future_is_batched(engine, "camera"), "it is in a batch")
        for _ in range(3):
            assert not future.done()
            passed = gate.passed
            gate.open(1)
            eventually(lambda passed=passed: gate.passed > passed, "a forward has run")
        assert level_of(future.result(PATIENCE_S)) == 5
        gate.open()
        job.join(PATIENCE_S)
        assert [level_of(r) for r in results] == [i % 256 for i in range(400)]


def future_is_batched(engine, source) -> bool:
    """Whether a batch that waits has an image of a source, and all of its pixels are there."""
    scheduler = engine._lifecycle.pipeline.scheduler
    with scheduler._lock:
        waiting = scheduler._batcher.waiting()
        return any(source in batch.sources and not batch.unwritten for batch in waiting)


def test_a_higher_priority_goes_first():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1, max_delay_ms=1e6) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        order: list[str] = []
        futures = []
        for i in range(30):
            futures.append(engine.submit(gray(1), client=i, key="low"))
        futures.append(engine.submit(gray(2), client="c", key="high", priority=1))
        low = engine.load()
        assert low.waiting > 5, "no more were decoded than there is room for"
        for future in futures:
            future.add_done_callback(lambda f: order.append(f.result().image))
        gate.open()
        for future in [first, *futures]:
            future.result(PATIENCE_S)
        eventually(lambda: len(order) == 31, "every callback has run")
        # What was decoded before it came may still be in front of it.
        assert order.index("high") <= 20


# Nobody wants it ----------------------------------------------------------------------------------


def test_cancelled_futures_are_not_run():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        futures = [engine.submit(gray(1)) for _ in range(100)]
        assert sum(future.cancel() for future in futures) >= 98
        gate.open()
        assert level_of(first.result(PATIENCE_S)) == 0
        eventually(lambda: engine.load().live == 0, "nothing is left")
        assert sum(engine.runtime.batches) <= 3


def test_cancelled_members_leave_a_batch_and_the_others_keep_their_results():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=9, max_delay_ms=1e6) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        futures = [engine.submit(gray(10 + i)) for i in range(8)]
        eventually(lambda: engine.load().batched == 8, "all are in the batch")
        for i in (0, 3, 7):
            assert futures[i].cancel()
        gate.open()
        assert level_of(first.result(PATIENCE_S)) == 0
        rest = [level_of(futures[i].result(PATIENCE_S)) for i in (1, 2, 4, 5, 6)]
        assert rest == [11, 12, 14, 15, 16]
        assert engine.runtime.batches == [1, 5]


def test_a_consumer_that_leaves_costs_nothing_that_has_not_begun():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, queue=64, workers=1) as engine:
        stream = engine.predict(ListedSource(gray(i % 256) for i in range(10**9)))
        opener = threading.Timer(0.0, lambda: (gate.await_waiting(), gate.open(1)))
        opener.start()
        next(stream)
        gate.await_waiting()
        ran = len(engine.runtime.batches)
        stream.close()
        gate.open()
        eventually(lambda: engine.load().live == 0, "nothing is left")
        assert len(engine.runtime.batches) <= ran + 2


def test_a_deadline_holds_until_the_launch():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        second = engine.submit(gray(1))  # is on the device, too
        late = engine.submit(gray(2), deadline_ms=50)
        eventually(lambda: engine.load().batched == 1, "it is decoded and waits for the device")
        time.sleep(0.06)
        gate.open()
        result = late.result(PATIENCE_S)
        assert (result.failure, result.image) == ("deadline", "image")
        assert level_of(first.result(PATIENCE_S)) == 0
        assert level_of(second.result(PATIENCE_S)) == 1
        assert engine.runtime.batches == [1, 1]


def test_a_deadline_ends_the_wait_for_room():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1, queue=1) as engine:
        futures = []
        with pytest.raises(QueueFullError):
            while True:
                futures.append(engine.submit(gray(1), wait=False))
                time.sleep(0.005)
        late = engine.submit(gray(2), deadline_ms=20)
        assert late.result(PATIENCE_S).failure == "deadline"
        gate.open()


def test_the_newest_image_of_a_camera_replaces_what_waits():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1) as engine:
        first = engine.submit(gray(0), client="job")
        gate.await_waiting()
        bulk = [engine.submit(gray(1), client="job") for _ in range(30)]
        frames = [engine.submit(gray(10 + i), client="cam", line="newest") for i in range(20)]
        gate.open()
        results = [future.result(PATIENCE_S) for future in frames]
        replaced = [r for r in results if r.failure == "overload"]
        assert len(replaced) >= 15
        assert level_of(results[-1]) == 29
        assert {level_of(f.result(PATIENCE_S)) for f in bulk} == {1}
        assert level_of(first.result(PATIENCE_S)) == 0


# What each request asks for -----------------------------------------------------------------------


def test_each_request_has_its_own_thresholds():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=9, max_delay_ms=1e6) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        # level 100 scores 100 / 255 / 2 + 0.5 = 0.696, and is of class 0
        options = [{}, {"conf": 0.69}, {"conf": 0.7}, {"classes": [0]}, {"classes": [1]}]
        futures = [engine.submit(gray(100), **option) for option in options]
        eventually(lambda: engine.load().batched == 5, "all are in the batch")
        gate.open()
        assert [len(f.result(PATIENCE_S)) for f in futures] == [1, 1, 0, 1, 0]
        assert engine.runtime.batches == [1, 5]
        assert level_of(first.result(PATIENCE_S)) == 0


@pytest.mark.parametrize(
    "option", [{"conf": 2}, {"iou": -1}, {"max_det": 0}, {"max_det": 301}, {"classes": [10]}]
)
def test_thresholds_that_make_no_sense_are_refused_at_once(option):
    with debug_engine() as engine, pytest.raises(UsageError, match=next(iter(option))):
        engine.submit(gray(1), **option)


def test_many_images_with_one_callback():
    with debug_engine() as engine:
        outcomes: dict[int, Detections] = {}
        done = threading.Event()

        def note(position: int, outcome) -> None:
            assert threading.current_thread().name == "brimful-delivery"
            assert position not in outcomes
            outcomes[position] = outcome
            if len(outcomes) == 200:
                done.set()

        engine.submit_many([gray(i) for i in range(200)], note, keys=[f"k{i}" for i in range(200)])
        assert done.wait(PATIENCE_S)
        assert [level_of(outcomes[i]) for i in range(200)] == list(range(200))
        assert [outcomes[i].image for i in range(200)] == [f"k{i}" for i in range(200)]
        with pytest.raises(UsageError, match="is no image"):
            engine.submit_many([gray(1), 5], note)


def test_many_images_can_be_cancelled():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1) as engine:
        told: list[int] = []
        submission = engine.submit_many(
            [gray(i) for i in range(50)], lambda position, outcome: told.append(position)
        )
        gate.await_waiting()
        submission.cancel()
        gate.open()
        eventually(lambda: engine.load().live == 0, "nothing is left")
        assert told == []
        assert sum(engine.runtime.batches) <= 2


def test_an_event_loop_awaits_detections():
    with debug_engine(queue=3, batch=2) as engine:

        async def main() -> list[int]:
            tasks = [engine.detect(gray(i), client=i % 3) for i in range(60)]
            return [level_of(result) for result in await asyncio.gather(*tasks)]

        assert asyncio.run(main()) == list(range(60))


def test_a_task_that_is_cancelled_cancels_its_request():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()

        async def main() -> None:
            tasks = [asyncio.ensure_future(engine.detect(gray(1))) for _ in range(20)]
            await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())
        gate.open()
        assert level_of(first.result(PATIENCE_S)) == 0
        eventually(lambda: engine.load().live == 0, "nothing is left")
        assert sum(engine.runtime.batches) <= 3


# The whole engine ---------------------------------------------------------------------------------


def test_the_retries_of_a_poison_image_hold_up_no_other_batch():
    gate = Gate()
    with debug_engine(
        faults=DebugFaults(poison_level=13, batch_ms=1), sleep=gate, batch=8, max_delay_ms=1e6
    ) as engine:
        first = engine.submit(gray(0))
        gate.await_waiting()
        bad = [engine.submit(gray(13 if i == 7 else 1)) for i in range(8)]
        eventually(lambda: engine.load().running == 2, "the batch with the poison is queued")
        good = [engine.submit(gray(2)) for _ in range(8)]
        eventually(lambda: engine.load().batched == 8, "the next one is ready")
        gate.open(1)
        eventually(lambda: gate.passed == 1 and gate.waiting == 1, "the poison is on the device")
        gate.open(2)  # it fails; its neighbour's batch, which was queued behind it, succeeds
        assert [level_of(future.result(PATIENCE_S)) for future in good] == [2] * 8
        gate.await_waiting()  # a retry is held up all the while
        assert not any(future.done() for future in bad)
        gate.open()
        assert [future.result(PATIENCE_S).failure for future in bad] == [None] * 7 + ["runtime"]
        assert level_of(first.result(PATIENCE_S)) == 0


def test_swap_goes_on_with_another_runtime_and_loses_nothing():
    before = brimful_threads()
    with debug_engine(batch=4, faults=DebugFaults(batch_ms=1)) as engine:
        first = engine.runtime
        results: list[Detections] = []
        job = threading.Thread(
            target=lambda: results.extend(
                engine.predict(ListedSource(gray(i % 256) for i in range(600)))
            )
        )
        job.start()
        futures = [engine.submit(gray(i), client="c") for i in range(50)]
        eventually(lambda: len(first.batches) > 3, "the first one is at work")
        second = DebugRuntime(RuntimeOptions(max_batch=2))
        engine.swap(second)
        futures += [engine.submit(gray(i), client="c") for i in range(50)]
        job.join(PATIENCE_S)
        assert [level_of(r) for r in results] == [i % 256 for i in range(600)]
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == [*range(50), *range(50)]
        assert first.batches and second.batches
        assert sum(first.batches) + sum(second.batches) == 700
        assert engine.runtime is second and engine.health == "ok"
    assert brimful_threads() <= before


def test_drain_finishes_what_was_taken_and_takes_no_more():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate) as engine:
        futures = [engine.submit(gray(i)) for i in range(20)]
        assert not engine.drain(0.01)
        with pytest.raises(EngineStoppedError, match="takes no more"):
            engine.submit(gray(1))
        gate.open()
        assert engine.drain(PATIENCE_S)
        assert [level_of(f.result(0)) for f in futures] == list(range(20))


def test_a_job_that_a_drain_interrupts_is_told_so():
    with debug_engine(batch=1, queue=4) as engine:
        job = engine.predict(ListedSource(gray(i % 256) for i in range(10**9)))
        next(job)
        with pytest.raises(EngineStoppedError, match="takes no more"):
            for _ in job:
                engine.drain(0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_after_a_fork_the_child_is_told_and_ends_at_once():
    with debug_engine() as engine:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                engine.submit(gray(1))
            except EngineStoppedError as error:
                code = 0 if "do not survive a fork" in str(error) else 2
            engine.close()  # returns: the threads are the parent's
            os._exit(code)
        end = time.monotonic() + PATIENCE_S
        status = None
        while status is None and time.monotonic() < end:
            done, code = os.waitpid(pid, os.WNOHANG)
            status = code if done else None
            time.sleep(0.005)
        assert status == 0
        assert level_of(engine.submit(gray(1)).result(PATIENCE_S)) == 1


def test_what_is_wrong_with_a_source_is_said_when_predict_is_called():
    with debug_engine() as engine, pytest.raises(UsageError):
        engine.predict("/nowhere/at/all")


def test_restarted_stages_leave_nothing_of_the_old_ones():
    before = brimful_threads()
    with debug_engine(on_stage_death="restart") as engine:
        usual = len(brimful_threads() - before) + 1  # the delivery thread comes with the first one
        for _ in range(3):
            pipeline = engine._lifecycle.pipeline

            def boom(*_: object) -> None:
                raise ModelError("boom")

            pipeline._postprocess = boom
            with pytest.raises(EngineStoppedError, match="boom"):
                engine.submit(gray(1)).result(PATIENCE_S)
        assert level_of(engine.submit(gray(7)).result(PATIENCE_S)) == 7
        assert engine.restarts == 3
        eventually(
            lambda: len(brimful_threads() - before) <= usual, "the old stages' threads have ended"
        )
    assert brimful_threads() <= before


def test_cameras_are_bounded_as_everybody_is():
    """The newest image of a camera needs room when nothing of the camera waits."""
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1, workers=1, queue=5) as engine:
        with pytest.raises(QueueFullError):
            for camera in range(1000):
                engine.submit(gray(1), client=camera, line="newest", wait=False)
        assert engine.load().waiting <= 5
        gate.open()


def test_a_swap_refuses_nobody_who_submits_meanwhile():
    with debug_engine(batch=4) as engine:
        stop = threading.Event()
        faults: list[BaseException] = []

        def client(number: int) -> None:
            try:
                while not stop.is_set():
                    assert level_of(engine.submit(gray(number)).result(PATIENCE_S)) == number
            except BaseException as error:
                faults.append(error)

        clients = [threading.Thread(target=client, args=(i,)) for i in range(8)]
        for thread in clients:
            thread.start()
        for _ in range(20):
            engine.swap(DebugRuntime(RuntimeOptions(max_batch=4)))
        stop.set()
        for thread in clients:
            thread.join(PATIENCE_S)
        assert faults == []
