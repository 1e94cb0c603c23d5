"""Jobs and the engine itself come to an end and leave nothing behind."""

from __future__ import annotations

import gc
import threading
import weakref

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

from brimful.errors import EngineStoppedError, UsageError


def test_close_leaves_no_thread_and_can_be_called_again():
    before = brimful_threads()
    engine = debug_engine(workers=3, concurrency=2)
    list(engine.predict([gray(i) for i in range(20)]))
    # workers, forwards; postprocess, retry, clock
    assert len(brimful_threads() - before) == 3 + 2 + 3
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
    eventually(lambda: engine.load().waiting == 4, "the queue is full")
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
        futures = [engine.submit(image, copy=False) for image in images]
        assert [level_of(f.result(PATIENCE_S)) for f in futures] == list(range(30))
        del images, futures
        eventually(
            lambda: gc.collect() >= 0 and all(r() is None for r in references), "all are gone"
        )


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
        eventually(lambda: engine.load().live == 0, "what was in flight has landed")
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
        window = 4 + 2 * 2 * engine._lifecycle.slots(engine.runtime)
        stream = engine.predict(source)
        assert next(stream).index == 0
        eventually(lambda: engine.load().live == 0, "the engine waits for the consumer")
        assert source.handed_out <= 2 * window + 2
        for expected in range(1, 200):
            assert next(stream).index == expected
        stream.close()


def test_a_consumer_that_leaves_frees_a_feeder_that_waits_for_it():
    with debug_engine(batch=2, queue=4, workers=2) as engine:
        engine_threads = brimful_threads()
        window = 4 + 2 * 2 * engine._lifecycle.slots(engine.runtime)
        source = ListedSource(gray(i % 256) for i in range(10**9))
        source.close = lambda: None  # a source that does not care
        stream = engine.predict(source)
        next(stream)
        eventually(
            lambda: engine.load().live == 0 and source.handed_out > window,
            "the window is full",
        )
        stream.close()
        assert brimful_threads() <= engine_threads


def test_bytes_in_memory_are_bounded():
    image = gray(5, 100, 100)
    gate = Gate()
    with debug_engine(
        faults=GATED, sleep=gate, batch=64, queue=64, queue_bytes=5 * image.nbytes
    ) as engine:
        source = ListedSource(image for _ in range(40))
        stream = engine.predict(source)
        results: list = []
        consumer = threading.Thread(target=lambda: results.extend(stream))
        consumer.start()
        gate.await_waiting()
        eventually(lambda: engine.load().live == 4, "a lone source holds four fifths")
        assert source.handed_out <= 5
        assert engine.load().nbytes == 4 * image.nbytes
        gate.open()
        consumer.join(PATIENCE_S)
        assert [r.index for r in results] == list(range(40))
