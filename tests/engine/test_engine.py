"""The engine whole, on the debug runtime: every image gets its own result, once, in order."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import threading
import weakref
from collections import Counter
from pathlib import Path

import cv2
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
    write_images,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from brimful.engine.config import EngineConfig
from brimful.engine.engine import QueueFullError
from brimful.errors import EngineStoppedError, ImageError, UsageError
from brimful.runtimes.debug import DebugFaults


def bad_payloads() -> list:
    """Return payloads that no image can be made of, each for another reason."""
    jpeg = cv2.imencode(".jpg", gray(9))[1].tobytes()
    return [
        b"",
        b"no image at all",
        jpeg[: len(jpeg) // 2],
        Path("/nowhere/x.jpg"),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 7), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        ImageError("the source could not read it"),
        OSError("neither could this one"),
        "a text, which no source should bring",
        None,
    ]


# Order, exactness, pixels ----------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "concurrency"), [(1, 1), (4, 1), (1, 3), (6, 3)])
def test_results_are_the_images_own_and_in_order(workers, concurrency):
    levels = [i * 7 % 256 for i in range(300)]
    with debug_engine(workers=workers, concurrency=concurrency, batch=5) as engine:
        results = list(engine.predict([gray(level) for level in levels]))
    assert [r.index for r in results] == list(range(300))
    assert [r.image for r in results] == [str(i) for i in range(300)]
    assert [level_of(r) for r in results] == levels
    assert {(r.height, r.width, r.canvas) for r in results} == {(24, 32, (64, 64))}


def test_files_of_several_sizes_keep_their_results(tmp_path):
    levels = [i * 11 % 256 for i in range(60)]
    shapes = [(24, 32), (32, 24), (30, 30), (20, 60), (60, 20)]
    for i, level in enumerate(levels):
        cv2.imwrite(str(tmp_path / f"{i:03}.png"), gray(level, *shapes[i % 5]))
    with debug_engine(canvas="auto", imgsz=160, batch=4, workers=3, concurrency=2) as engine:
        results = list(engine.predict(tmp_path))
    assert [level_of(r) for r in results] == levels
    assert [(r.height, r.width) for r in results] == [shapes[i % 5] for i in range(60)]
    assert len({r.canvas for r in results}) > 3


@settings(max_examples=25)
@given(
    images=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 255), st.integers(1, 70), st.integers(1, 70)),
            st.integers(0, len(bad_payloads()) - 1),
        ),
        max_size=60,
    ),
    batch=st.integers(1, 9),
    workers=st.integers(1, 5),
    concurrency=st.integers(1, 4),
    queue=st.integers(1, 20),
    canvas=st.sampled_from(["auto", "square", "exact"]),
    delay=st.sampled_from([0.0, 10.0]),
    poison=st.one_of(st.none(), st.integers(0, 255)),
    memory=st.one_of(st.none(), st.integers(1, 4)),
)
def test_every_image_has_exactly_one_result(
    images, batch, workers, concurrency, queue, canvas, delay, poison, memory
):
    bad = bad_payloads()
    payloads = [bad[i] if isinstance(i, int) else gray(*i) for i in images]
    faults = DebugFaults(poison_level=poison, memory_images=memory)
    with debug_engine(
        batch=batch,
        workers=workers,
        concurrency=concurrency,
        queue=queue,
        canvas=canvas,
        imgsz=160,
        max_delay_ms=delay,
        faults=faults,
    ) as engine:
        results = list(engine.predict(ListedSource(payloads)))
    assert [r.index for r in results] == list(range(len(images)))
    for given_, result in zip(images, results, strict=True):
        if isinstance(given_, int):
            assert result.error is not None and len(result) == 0
        elif given_[0] == poison:
            assert "poison" in result.error
        else:
            assert level_of(result) == given_[0]
            assert (result.height, result.width) == given_[1:]


# Bad images, bad forwards ----------------------------------------------------------------------


def test_bad_images_hurt_only_themselves():
    payloads = []
    for i, bad in enumerate(bad_payloads()):
        payloads += [gray(i), bad]
    with debug_engine() as engine:
        results = list(engine.predict(ListedSource(payloads)))
        assert engine.health == "ok"
    for i in range(0, len(payloads), 2):
        assert level_of(results[i]) == i // 2
        failed = results[i + 1]
        assert failed.error and len(failed) == 0 and failed.image == f"k{i + 1}"
    reasons = [result.error for result in results[1::2]]
    assert len(set(reasons)) == len(reasons), "each says its own reason"
    assert "neither could this one" in reasons[9]


def test_an_error_of_a_source_that_is_shared_does_not_grow():
    """The same exception object may be the payload of many images."""
    shared = ImageError("the disk is gone")
    with debug_engine(workers=4) as engine:
        results = list(engine.predict(ListedSource([shared] * 200)))
    assert {r.error for r in results} == {"the disk is gone"}
    assert shared.__traceback__ is None


def test_submit_refuses_what_is_no_image():
    with debug_engine() as engine:
        for nonsense in (5, None, object(), [gray(1)]):
            with pytest.raises(UsageError, match="is no image"):
                engine.submit(nonsense)
        assert engine.submit(gray(3)).result(PATIENCE_S).error is None


def filled_batch(engine, gate: Gate, levels: list[int]):
    """Have exactly these images run in one batch, by holding up a first one before."""
    first = engine.submit(gray(0))
    gate.await_waiting()
    futures = [engine.submit(gray(level)) for level in levels]
    batcher = engine._pipeline._batcher
    eventually(
        lambda: any(len(b.members) == len(levels) and not b.unwritten for b in batcher._waiting()),
        "the batch is filled",
    )
    gate.open()
    assert level_of(first.result(PATIENCE_S)) == 0
    return [future.result(PATIENCE_S) for future in futures]


def test_a_poison_image_hurts_only_itself():
    gate = Gate()
    faults = DebugFaults(poison_level=13, batch_ms=1)
    with debug_engine(batch=9, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, [10, 11, 12, 13, 14, 15, 16, 17])
        assert engine.runtime.batches == [1, 8, *[1] * 8]
    assert [level_of(r) for i, r in enumerate(results) if i != 3] == [10, 11, 12, 14, 15, 16, 17]
    assert "poison" in results[3].error
    assert (results[3].height, results[3].width) == (24, 32)


def test_a_forward_that_fails_once_is_run_again_singly():
    gate = Gate()
    faults = DebugFaults(fail_forwards=frozenset({2}), batch_ms=1)
    with debug_engine(batch=5, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, [20, 21, 22, 23])
        assert engine.runtime.batches == [1, 4, 1, 1, 1, 1]
    assert [level_of(r) for r in results] == [20, 21, 22, 23]


def test_a_forward_that_fails_twice_is_an_error():
    faults = DebugFaults(fail_forwards=frozenset({1, 2}))
    with debug_engine(faults=faults) as engine:
        assert "forward 2 was told to fail" in engine.submit(gray(1)).result(PATIENCE_S).error
        assert engine.runtime.batches == [1, 1]
        assert level_of(engine.submit(gray(2)).result(PATIENCE_S)) == 2


@pytest.mark.parametrize("images", [7, 8, 11, 16])
@pytest.mark.parametrize("fit", [1, 2, 3, 5])
def test_out_of_memory_splits_the_batch(images, fit):
    gate = Gate()
    faults = DebugFaults(memory_images=fit, batch_ms=1)
    with debug_engine(batch=17, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, [30 + i for i in range(images)])
        ran = engine.runtime.batches[2:]
    assert [level_of(r) for r in results] == [30 + i for i in range(images)]
    assert max(size for size in ran if size <= fit) > fit / 2, "no smaller than need be"


def test_memory_and_poison_together():
    gate = Gate()
    faults = DebugFaults(memory_images=3, poison_level=44, batch_ms=1)
    with debug_engine(batch=12, faults=faults, sleep=gate, max_delay_ms=1e6) as engine:
        results = filled_batch(engine, gate, list(range(40, 51)))
    assert "poison" in results.pop(4).error
    assert [level_of(r) for r in results] == [40, 41, 42, 43, *range(45, 51)]


def test_one_image_that_does_not_fit_is_an_error():
    with debug_engine(faults=DebugFaults(memory_images=0)) as engine:
        assert "do not fit" in engine.submit(gray(1)).result(PATIENCE_S).error
        assert engine.runtime.batches == [1]


# Hangs and deaths ------------------------------------------------------------------------------


def test_a_hung_forward_fails_everything_in_flight():
    gate = Gate()
    engine = debug_engine(faults=GATED, sleep=gate, stall_s=0.2, batch=2, workers=2)
    futures = [engine.submit(gray(i)) for i in range(20)]
    for future in futures:
        with pytest.raises(EngineStoppedError, match=r"clock stage died.*has not ended"):
            future.result(PATIENCE_S)
    assert "has not ended" in engine.health
    with pytest.raises(EngineStoppedError):
        list(engine.predict([gray(1)]))
    gate.open()
    engine.close()


def test_a_retry_that_hangs_fails_everything_in_flight():
    gate = Gate()
    faults = DebugFaults(fail_forwards=frozenset({1}), batch_ms=1)
    engine = debug_engine(faults=faults, sleep=gate, stall_s=0.2)
    with pytest.raises(EngineStoppedError, match=r"postprocess stage died.*did not end"):
        engine.submit(gray(1)).result(PATIENCE_S)
    gate.open()
    engine.close()


class Bomb:
    """Goes off once, in the method it is put before, after it was armed."""

    def __init__(self, owner, name: str) -> None:
        self.armed = threading.Event()
        self._inner = getattr(owner, name)
        setattr(owner, name, self)

    def __call__(self, *arguments, **keywords):
        if self.armed.is_set():
            self.armed.clear()
            raise ZeroDivisionError("boom")
        return self._inner(*arguments, **keywords)


STAGES = {
    "decode": ("decode", lambda e: Bomb(e._preprocess, "decode")),
    "place": ("decode", lambda e: Bomb(e._preprocess, "place")),
    "allocate": ("decode", lambda e: Bomb(e.runtime, "allocate")),
    "write": ("preprocess", lambda e: Bomb(e._preprocess, "write")),
    "submit": ("forward", lambda e: Bomb(e.runtime, "submit")),
    "landed": ("forward", lambda e: Bomb(e._pipeline._batcher, "observe")),
    "postprocess": ("postprocess", lambda e: Bomb(e._pipeline, "_postprocess")),
    "clock": ("clock", lambda e: Bomb(e._pipeline._batcher, "next_due")),
}


@pytest.mark.parametrize("policy", ["stop", "restart"])
@pytest.mark.parametrize("where", STAGES)
def test_when_a_stage_dies_everything_in_flight_fails(where, policy):
    stage, plant = STAGES[where]
    gate = Gate()
    before = brimful_threads()
    engine = debug_engine(
        faults=GATED, sleep=gate, batch=4, workers=2, canvas="exact", on_stage_death=policy
    )
    bomb = plant(engine)
    futures = [engine.submit(gray(0))]
    gate.await_waiting()
    job_errors: list[str] = []

    def job() -> None:
        try:
            list(engine.predict([gray(1)] * 4))
        except EngineStoppedError as error:
            job_errors.append(str(error))

    consumer = threading.Thread(target=job)
    consumer.start()
    eventually(lambda: engine._pipeline.inflight == 5, "all of the job is in flight")
    bomb.armed.set()
    for size in range(10, 18):
        try:
            futures.append(engine.submit(gray(2, size, 50)))
        except EngineStoppedError:
            break  # it is dead already
    if where in ("landed", "postprocess", "submit"):
        gate.open(1)
    consumer.join(PATIENCE_S)
    assert not consumer.is_alive()
    assert len(job_errors) == 1 and "boom" in job_errors[0]
    if policy == "restart":
        # At once: who learns of the failure may rely on the restart.
        assert engine.health == "ok"
        gate.open()
        assert level_of(engine.submit(gray(7)).result(PATIENCE_S)) == 7
        assert engine.restarts == 1
        results = list(engine.predict([gray(i) for i in range(40)]))
        assert [level_of(r) for r in results] == list(range(40))
    else:
        assert stage in engine.health and "boom" in engine.health
        with pytest.raises(EngineStoppedError, match="boom"):
            list(engine.predict([gray(1)]))
        with pytest.raises(EngineStoppedError, match="boom"):
            engine.submit(gray(1))
        assert engine.restarts == 0
        gate.open()
    errors = [future.exception(PATIENCE_S) for future in futures]
    if where == "submit" and errors[0] is None:
        errors.pop(0)  # its forward had landed before the next one was started
    if policy == "restart":
        errors = [error for error in errors if error is not None]  # submitted afterwards
    assert errors
    for error in errors:
        assert isinstance(error, EngineStoppedError)
        assert re.search(f"the {stage}.* stage died.*boom", str(error))
        assert isinstance(error.__cause__, ZeroDivisionError)
    engine.close()
    assert brimful_threads() <= before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_owner_who_raises_costs_nobody_else_an_answer():
    gate = Gate()
    engine = debug_engine(faults=GATED, sleep=gate, batch=2)

    def leave(_) -> None:
        raise SystemExit

    futures = [engine.submit(gray(i)) for i in range(10)]
    gate.await_waiting()
    for future in futures:
        future.add_done_callback(leave)
    gate.open()  # the first result meets the first owner on the postprocess thread
    errors = [future.exception(PATIENCE_S) for future in futures]
    assert errors.count(None) == 1
    assert sum(isinstance(error, EngineStoppedError) for error in errors) == 9
    assert "SystemExit" in engine.health
    engine.close()


def test_a_cancelled_future_disturbs_nobody():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate) as engine:
        futures = [engine.submit(gray(i)) for i in range(12)]
        assert futures[3].cancel()
        gate.open()
        rest = [level_of(f.result(PATIENCE_S)) for i, f in enumerate(futures) if i != 3]
        assert rest == [0, 1, 2, *range(4, 12)]
        assert engine.health == "ok"


# Close -----------------------------------------------------------------------------------------


def test_close_leaves_no_thread_and_can_be_called_again():
    before = brimful_threads()
    engine = debug_engine(workers=3, concurrency=2)
    list(engine.predict([gray(i) for i in range(20)]))
    assert len(brimful_threads() - before) == 3 + 2 + 2
    engine.close()
    assert brimful_threads() <= before
    engine.close()
    assert "closed" in engine.health
    with pytest.raises(EngineStoppedError, match="closed"):
        engine.submit(gray(1))
    with pytest.raises(EngineStoppedError, match="closed"):
        next(engine.predict([gray(1)]))


def test_close_while_everything_is_in_flight():
    gate = Gate()
    before = brimful_threads()
    engine = debug_engine(faults=GATED, sleep=gate, batch=2, queue=4, workers=2)
    outcomes: list[object] = []

    def job(number: int) -> None:
        try:
            if number % 2:
                outcomes.append(list(engine.predict([gray(i) for i in range(100)])))
            else:
                futures = [engine.submit(gray(i), client=number) for i in range(100)]
                outcomes.append([future.result(PATIENCE_S) for future in futures])
        except EngineStoppedError as error:
            outcomes.append(str(error))

    jobs = [threading.Thread(target=job, args=(number,)) for number in range(6)]
    for thread in jobs:
        thread.start()
    gate.await_waiting()
    eventually(lambda: len(engine._pipeline._admission) == 4, "the queue is full")
    closer = threading.Thread(target=engine.close)
    closer.start()
    for thread in jobs:
        thread.join(PATIENCE_S)
    assert outcomes == ["the engine was closed"] * 6
    gate.open()  # close waits for the forward that runs
    closer.join(PATIENCE_S)
    assert not closer.is_alive()
    assert brimful_threads() <= before


def test_close_waits_for_forwards_before_it_closes_the_runtime():
    gate = Gate()
    engine = debug_engine(faults=GATED, sleep=gate, concurrency=2, batch=1)
    order: list[str] = []
    close = engine.runtime.close
    engine.runtime.close = lambda: (order.append(f"closed after {gate.passed}"), close())
    futures = [engine.submit(gray(i)) for i in range(2)]
    gate.await_waiting(2)
    closer = threading.Thread(target=engine.close)
    closer.start()
    for future in futures:
        assert isinstance(future.exception(PATIENCE_S), EngineStoppedError)
    assert order == []
    gate.open()
    closer.join(PATIENCE_S)
    assert order == ["closed after 2"]


def test_close_gives_the_slots_back():
    engine = debug_engine(canvas="auto", imgsz=160)
    slots = []
    allocate = engine.runtime.allocate

    def noted(canvas, *, capacity=None):
        slot = allocate(canvas, capacity=capacity)
        slots.append(weakref.ref(slot.inputs))
        return slot

    engine.runtime.allocate = noted
    list(engine.predict([gray(i, *shape) for i in range(9) for shape in [(9, 9), (9, 20)]]))
    assert slots and any(slot() is not None for slot in slots)
    engine.close()
    gc.collect()
    assert all(slot() is None for slot in slots)


def test_an_idle_engine_keeps_no_image():
    with debug_engine(workers=3) as engine:
        images = [gray(i) for i in range(30)]
        references = [weakref.ref(image) for image in images]
        futures = [engine.submit(image) for image in images]
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == list(range(30))
        del images, futures
        eventually(
            lambda: gc.collect() >= 0 and all(r() is None for r in references), "all are gone"
        )


# Jobs ------------------------------------------------------------------------------------------


def test_a_consumer_that_leaves_early_stops_the_job():
    before = brimful_threads()
    with debug_engine(batch=2, queue=4) as engine:
        engine_threads = brimful_threads()
        source = ListedSource(gray(i % 256) for i in range(10**9))
        for result in engine.predict(source):
            if result.index == 5:
                break
        del result
        gc.collect()
        assert source.closed
        assert brimful_threads() <= engine_threads
        eventually(lambda: engine._pipeline.inflight == 0, "what was in flight has landed")
        assert source.handed_out < 5 + 200
        assert level_of(engine.submit(gray(9)).result(PATIENCE_S)) == 9
    assert brimful_threads() <= before


def test_a_generator_closed_before_its_first_result_stops_the_job():
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=2, queue=4) as engine:
        engine_threads = brimful_threads()
        stream = engine.predict([gray(i) for i in range(100)])
        taker = threading.Thread(target=lambda: next(stream))
        taker.start()
        gate.open()
        taker.join(PATIENCE_S)
        stream.close()
        assert brimful_threads() <= engine_threads


def test_a_source_that_breaks_off_raises_after_its_results():
    def payloads():
        for i in range(50):
            yield gray(i)
        raise OSError("the camera is gone")

    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=4) as engine:
        seen: list[int] = []
        stream = engine.predict(ListedSource(payloads()))
        # Nothing has a result when the source breaks off, and everything still gets one.
        opener = threading.Timer(0.0, lambda: (gate.await_waiting(), gate.open()))
        opener.start()
        with pytest.raises(OSError, match="the camera is gone"):
            for result in stream:
                seen.append(level_of(result))
        opener.join(PATIENCE_S)
        assert seen == list(range(50))
        assert engine.health == "ok"
        assert [level_of(r) for r in engine.predict([gray(1)])] == [1]


def test_there_is_no_such_source():
    with debug_engine() as engine:
        with pytest.raises(UsageError):
            list(engine.predict("/nowhere/at/all"))
        with pytest.raises(UsageError):
            list(engine.predict([]))


def test_a_job_holds_no_more_than_its_window():
    """However long the source and however slow the consumer."""
    with debug_engine(batch=2, queue=4, workers=2) as engine:
        source = ListedSource(gray(i % 256) for i in range(10**9))
        window = 4 + 2 * 2 * engine._slots
        stream = engine.predict(source)
        assert next(stream).index == 0
        eventually(lambda: engine._pipeline.inflight == 0, "the engine waits for the consumer")
        assert source.handed_out <= 2 * window + 2
        for expected in range(1, 200):
            assert next(stream).index == expected
        stream.close()


def test_a_consumer_that_leaves_frees_a_feeder_that_waits_for_it():
    with debug_engine(batch=2, queue=4, workers=2) as engine:
        engine_threads = brimful_threads()
        window = 4 + 2 * 2 * engine._slots
        source = ListedSource(gray(i % 256) for i in range(10**9))
        source.close = lambda: None  # a source that does not care
        stream = engine.predict(source)
        next(stream)
        eventually(
            lambda: engine._pipeline.inflight == 0 and source.handed_out > window,
            "the window is full",
        )
        stream.close()
        assert brimful_threads() <= engine_threads


def test_bytes_in_memory_are_bounded():
    image = gray(5, 100, 100)
    gate = Gate()
    with debug_engine(
        faults=GATED, sleep=gate, batch=64, queue=64, queue_bytes=3 * image.nbytes
    ) as engine:
        source = ListedSource(image for _ in range(40))
        stream = engine.predict(source)
        results: list = []
        consumer = threading.Thread(target=lambda: results.extend(stream))
        consumer.start()
        gate.await_waiting()
        eventually(lambda: engine._pipeline.inflight == 3, "three are in flight")
        assert source.handed_out <= 4
        gate.open()
        consumer.join(PATIENCE_S)
        assert [r.index for r in results] == list(range(40))


# Clients ---------------------------------------------------------------------------------------


def test_submit_from_many_threads():
    wrong: list = []
    with debug_engine(workers=4, concurrency=2, queue=16) as engine:

        def client(number: int) -> None:
            levels = [(number * 8 + i) % 256 for i in range(25)]
            futures = [
                engine.submit(gray(level), client=number, key=str(level)) for level in levels
            ]
            for level, future in zip(levels, futures, strict=True):
                result = future.result(PATIENCE_S)
                if level_of(result) != level or result.image != str(level):
                    wrong.append((level, result))

        threads = [threading.Thread(target=client, args=(number,)) for number in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert not any(thread.is_alive() for thread in threads)
        assert not wrong
        assert sum(size * n for size, n in engine.report().batches.items()) == 32 * 25


def test_submit_takes_paths_bytes_arrays_and_pillow_images(tmp_path):
    from PIL import Image

    (path,) = write_images(tmp_path, [50])
    with debug_engine() as engine:
        images = [path, str(path), path.read_bytes(), gray(50), gray(50)[..., 0]]
        images.append(Image.fromarray(gray(50)))
        for image in images:
            assert level_of(engine.submit(image, key="x").result(PATIENCE_S)) == 50
        missing = engine.submit(tmp_path / "missing.jpg").result(PATIENCE_S)
        assert "no such file" in missing.error


def test_a_deadline_that_has_passed_is_an_error_result():
    with debug_engine() as engine:
        late = engine.submit(gray(1), deadline_ms=0, key="late").result(PATIENCE_S)
        assert "deadline" in late.error and late.image == "late"
        assert engine.runtime.batches == [], "nothing was spent on it"
        assert level_of(engine.submit(gray(2), deadline_ms=1e6).result(PATIENCE_S)) == 2


class HeldDecode:
    """Holds up decode until released, and notes the keys in the order decoded."""

    def __init__(self, engine) -> None:
        self._released = threading.Event()
        self._inner = engine._preprocess.decode
        self.keys: list[str] = []
        engine._preprocess.decode = self

    def __call__(self, image):
        self.keys.append(image.key)
        assert self._released.wait(PATIENCE_S)
        return self._inner(image)

    def release(self) -> None:
        self._released.set()


def test_a_full_queue_is_an_error_for_who_does_not_wait():
    with debug_engine(queue=2, workers=1) as engine:
        held = HeldDecode(engine)
        futures = [engine.submit(gray(0))]
        eventually(lambda: held.keys == ["image"], "the worker has the first")
        futures += [engine.submit(gray(i), wait=False) for i in (1, 2)]
        with pytest.raises(QueueFullError, match="2 images"):
            engine.submit(gray(3), wait=False)
        waiter = threading.Thread(target=lambda: futures.append(engine.submit(gray(3))))
        waiter.start()
        held.release()
        waiter.join(PATIENCE_S)
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == [0, 1, 2, 3]
    assert QueueFullError.http_status == 429


def test_concurrent_jobs_take_turns():
    jobs, images = 4, 50
    with debug_engine(queue=jobs * images, workers=1) as engine:
        held = HeldDecode(engine)
        counts: list[int] = []

        def job(number: int) -> None:
            folder = ListedSource(gray(i) for i in range(images))
            levels = [level_of(r) for r in engine.predict(folder)]
            assert levels == list(range(images))
            counts.append(len(levels))

        # the images carry their position only, so that the admission's order shows
        threads = [threading.Thread(target=job, args=(number,)) for number in range(jobs)]
        for thread in threads:
            thread.start()
        waiting = engine._pipeline._admission
        eventually(lambda: len(waiting) == jobs * images - 1, "all wait but the one in decode")
        held.release()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert counts == [images] * jobs
    # the k-th image of any job comes after the (k-1)-th of every other
    places: dict[int, list[int]] = {}
    for place, key in enumerate(held.keys):
        places.setdefault(int(key[1:]), []).append(place)
    for k in range(1, images):
        assert min(places[k]) > max(places[k - 1]) - jobs


def test_a_client_does_not_wait_for_a_job_of_a_thousand():
    with debug_engine(queue=2000, workers=1) as engine:
        held = HeldDecode(engine)
        bulk = [engine.submit(gray(1), client="job", key=f"job{i}") for i in range(1000)]
        camera = engine.submit(gray(2), client="camera", key="camera")
        held.release()
        assert level_of(camera.result(PATIENCE_S)) == 2
        assert held.keys.index("camera") <= 2
        for future in bulk:
            assert level_of(future.result(PATIENCE_S)) == 1


def test_warm_up_runs_every_canvas_once():
    with debug_engine(canvas="auto", imgsz=640) as engine:
        canvases = engine.warm_up()
        assert set(canvases) == set(engine._policy.canvases())
        assert sum(engine.runtime.batches) == len(canvases) > 3
    with debug_engine(canvas="exact") as engine:
        assert engine.warm_up() == []


def test_the_report_counts_the_device_while_it_is_never_idle():
    """A stage that never rests must not look idle."""
    gate = Gate()
    with debug_engine(faults=GATED, sleep=gate, batch=1) as engine:
        futures = [engine.submit(gray(i)) for i in range(20)]
        gate.await_waiting()
        gate.open(3)
        eventually(lambda: sum(f.done() for f in futures) == 3, "three have their results")
        uses = {use.name: use.seconds for use in engine.report().stages}
        assert uses["forward"] > 0
        gate.open()
        for future in futures:
            future.result(PATIENCE_S)
        assert Counter(engine.runtime.batches) == {1: 20}


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"queue": 0},
        {"queue_bytes": 0},
        {"stall_s": 0},
        {"on_stage_death": "ignore"},
        {"max_delay_ms": -1},
        {"canvas": "round"},
        {"imgsz": 65},
    ],
)
def test_wrong_settings_are_refused_and_leave_no_thread(wrong):
    before = brimful_threads()
    with pytest.raises(UsageError, match=next(iter(wrong)) if "imgsz" not in wrong else "65"):
        debug_engine(**wrong)
    assert len(brimful_threads() - before) <= 1, "only the runtime's own, which the caller closes"


def test_the_default_settings_stand():
    assert EngineConfig().on_stage_death == "stop"


MEMORY = """
import os, sys
sys.path.insert(0, {tests!r})
import cv2
from engine_kit import ListedSource, debug_engine, gray
cv2.setNumThreads(1)
jpeg = cv2.imencode(".jpg", gray(7, 240, 320))[1].tobytes()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def payloads():
    for i in range(20_000):
        if i % 4 == 0:
            yield jpeg + bytes([i % 256]) * 100
        elif i % 97 == 1:
            yield b"no image " + str(i).encode()
        else:
            yield gray(i % 256, 240, 320)

# Bounds so small that what is allowed to be in flight does not hide what leaks.
bounds = dict(queue=8, queue_bytes=2 * 2**20, batch=8, workers=2, concurrency=2)
with debug_engine(imgsz=320, canvas="auto", **bounds) as engine:
    early = count = 0
    for results in engine.stream(ListedSource(payloads())):
        for _ in results:
            count += 1
            if count == 4_000:
                early = resident()
    print(count, resident() - early)
"""


def test_memory_is_flat_over_twenty_thousand_images():
    script = MEMORY.format(tests=str(Path(__file__).parent))
    # Large arrays straight from the system and back: what the allocator keeps is no leak.
    allocator = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **allocator},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    count, growth = map(int, done.stdout.split())
    assert count == 20_000
    assert growth < 6 * 2**20  # less than 400 bytes an image
