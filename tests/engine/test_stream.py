"""The stream between feeder and consumer: order, bounds, ends."""

from __future__ import annotations

import random
import threading
import weakref

import pytest
from engine_kit import PATIENCE_S, eventually, waits

from brimful.detections import Detections
from brimful.engine.stream import ResultStream


def result(number: int) -> Detections:
    return Detections(
        image=str(number), index=number, width=1, height=1, task="detect", names=("a",)
    )


def flat(stream: ResultStream) -> list[int]:
    return [r.index for results in stream for r in results]


def run(target) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def finish(thread: threading.Thread) -> None:
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def blocked_in_enter(stream: ResultStream, count: int = 1) -> tuple[threading.Thread, list]:
    """Return a thread that waits for room, and where it will note the numbers it got."""
    got: list[range | None] = []
    thread = run(lambda: got.append(stream.enter(count)))
    eventually(lambda: waits(thread), "the feeder waits")
    return thread, got


def put(stream: ResultStream, *numbers: int) -> None:
    """Settle results one after the other."""
    for number in numbers:
        stream.put_all((number,), (result(number),))


def test_results_come_in_order_however_they_settle():
    stream = ResultStream(1000)
    numbers = [number for _ in range(300) for number in stream.enter(1)]
    assert numbers == list(range(300))
    stream.end()
    shuffled = random.Random(1).sample(numbers, 300)
    thread = run(lambda: put(stream, *shuffled))
    assert flat(stream) == numbers
    finish(thread)


def test_all_that_are_ready_come_at_a_time():
    stream = ResultStream(10)
    stream.enter(4)
    put(stream, 2, 0, 1)
    batches = iter(stream)
    assert [r.index for r in next(batches)] == [0, 1, 2]
    put(stream, 3)
    stream.end()
    assert [[r.index for r in batch] for batch in batches] == [[3]]


def test_several_enter_and_settle_at_once():
    stream = ResultStream(5)
    assert stream.enter(3) == range(3)
    assert stream.enter(3) == range(3, 5), "as many as there is room for"
    thread, got = blocked_in_enter(stream, 9)
    stream.put_all([2, 0], [result(2), result(0)])
    batches = iter(stream)
    assert [r.index for r in next(batches)] == [0]
    finish(thread)
    assert got == [range(5, 6)]
    stream.put_all([1, 3, 4, 5], [result(n) for n in (1, 3, 4, 5)])
    stream.end()
    assert [[r.index for r in batch] for batch in batches] == [[1, 2, 3, 4, 5]]


def test_an_empty_job_ends():
    stream = ResultStream(1)
    stream.end()
    assert flat(stream) == []


def test_the_window_counts_until_the_consumer_has_taken():
    stream = ResultStream(3)
    assert stream.enter(3) == range(3)
    put(stream, 1, 2)
    thread, got = blocked_in_enter(stream)
    put(stream, 0)  # settled, but not taken yet
    eventually(lambda: waits(thread), "the feeder waits on")
    assert not got
    assert [r.index for r in next(iter(stream))] == [0, 1, 2]
    finish(thread)
    assert got == [range(3, 4)]


def test_a_consumer_that_leaves_frees_the_feeder():
    stream = ResultStream(1)
    stream.enter(1)
    thread, got = blocked_in_enter(stream)
    stream.close()
    finish(thread)
    assert got == [None]
    assert stream.closed
    assert stream.enter(1) is None
    put(stream, 0)  # what was in flight may still settle, and is not kept
    kept = result(1)
    reference = weakref.ref(kept.boxes)
    stream.put_all((1,), (kept,))
    del kept
    assert reference() is None


def test_a_failure_comes_after_the_results_that_are_ready():
    stream = ResultStream(10)
    stream.enter(5)
    put(stream, 0, 1, 3)
    stream.fail(RuntimeError("the engine died"))
    stream.fail(RuntimeError("a second complaint"))
    seen = []
    with pytest.raises(RuntimeError, match="the engine died"):
        for results in stream:
            seen += [r.index for r in results]
    assert seen == [0, 1]
    assert stream.enter(1) is None, "no more is wanted"


def test_a_failure_frees_the_feeder_and_the_consumer():
    stream = ResultStream(1)
    stream.enter(1)
    feeder, got = blocked_in_enter(stream)
    raised = []

    def consume() -> None:
        try:
            flat(stream)
        except RuntimeError as error:
            raised.append(str(error))

    consumer = run(consume)
    eventually(lambda: waits(consumer), "the consumer waits too")
    stream.fail(RuntimeError("died"))
    finish(feeder)
    finish(consumer)
    assert got == [None] and raised == ["died"]


def test_an_end_with_an_error_waits_for_all_that_came_before():
    """A source that breaks off does not cost the results of what it brought."""
    stream = ResultStream(10)
    stream.enter(3)
    put(stream, 0)
    stream.end(OSError("the camera is gone"))
    batches = iter(stream)
    seen = [r.index for r in next(batches)]
    thread = run(lambda: put(stream, 2, 1))
    with pytest.raises(OSError, match="the camera is gone"):
        for results in batches:
            seen += [r.index for r in results]
    assert seen == [0, 1, 2]
    finish(thread)
