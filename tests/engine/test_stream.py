"""The stream between feeder and consumer: order, bounds, ends."""

from __future__ import annotations

import random
import threading

import pytest
from engine_kit import PATIENCE_S, eventually

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


def blocked_in_enter(stream: ResultStream, cost: int = 0) -> tuple[threading.Thread, list]:
    """Return a thread that waits for room, and where it will note the number it got."""
    got: list[int | None] = []
    thread = run(lambda: got.append(stream.enter(cost)))
    waiters = stream._changed._waiters
    eventually(lambda: len(waiters) == 1, "the feeder waits")
    return thread, got


def test_results_come_in_order_however_they_settle():
    stream = ResultStream(1000, 1000)
    numbers = [stream.enter(0) for _ in range(300)]
    assert numbers == list(range(300))
    stream.end()
    shuffled = random.Random(1).sample(numbers, 300)

    def settle() -> None:
        for number in shuffled:
            stream.put(number, result(number))

    thread = run(settle)
    assert flat(stream) == numbers
    finish(thread)


def test_all_that_are_ready_come_at_a_time():
    stream = ResultStream(10, 10)
    for _ in range(4):
        stream.enter(0)
    for number in (2, 0, 1):
        stream.put(number, result(number))
    batches = iter(stream)
    assert [r.index for r in next(batches)] == [0, 1, 2]
    stream.put(3, result(3))
    stream.end()
    assert [[r.index for r in batch] for batch in batches] == [[3]]


def test_several_enter_and_settle_at_once():
    stream = ResultStream(5, 10)
    assert stream.enter_some([0, 0, 0]) == range(3)
    assert stream.enter_some([0, 0, 0]) == range(3, 5), "as many as there is room for"
    thread, got = blocked_in_enter(stream)
    stream.put_all([2, 0], [result(2), result(0)])
    batches = iter(stream)
    assert [r.index for r in next(batches)] == [0]
    finish(thread)
    assert got == [5]
    stream.put_all([1, 3, 4, 5], [result(n) for n in (1, 3, 4, 5)])
    stream.end()
    assert [[r.index for r in batch] for batch in batches] == [[1, 2, 3, 4, 5]]


def test_several_enter_as_far_as_their_bytes_allow():
    stream = ResultStream(100, 10)
    assert stream.enter_some([4, 4, 4, 0]) == range(2)
    thread, got = blocked_in_enter(stream, cost=4)
    stream.put_all([0, 1], [result(0), result(1)])
    finish(thread)
    assert got == [2]
    assert stream.enter_some([0, 6, 1]) == range(3, 5)


def test_an_empty_job_ends():
    stream = ResultStream(1, 1)
    stream.end()
    assert flat(stream) == []


def test_the_window_counts_until_the_consumer_has_taken():
    stream = ResultStream(3, 10)
    for number in range(3):
        assert stream.enter(0) == number
    stream.put(1, result(1))
    stream.put(2, result(2))
    thread, got = blocked_in_enter(stream)
    stream.put(0, result(0))  # settled, but not taken yet
    assert thread.is_alive() and not got
    assert [r.index for r in next(iter(stream))] == [0, 1, 2]
    finish(thread)
    assert got == [3]


def test_bytes_count_until_an_image_is_settled():
    stream = ResultStream(100, 10)
    assert stream.enter(6) == 0
    assert stream.enter(4) == 1
    thread, got = blocked_in_enter(stream, cost=1)
    stream.put(0, result(0))
    finish(thread)
    assert got == [2]


def test_bytes_are_free_although_the_head_still_waits_for_the_consumer():
    stream = ResultStream(100, 10)
    assert [stream.enter(5) for _ in range(2)] == [0, 1]
    thread, got = blocked_in_enter(stream, cost=5)
    stream.put(1, result(1))
    finish(thread)
    assert got == [2]


def test_an_image_larger_than_the_bound_goes_alone():
    stream = ResultStream(100, 10)
    assert stream.enter(50) == 0
    thread, got = blocked_in_enter(stream, cost=1)
    stream.put(0, result(0))
    finish(thread)
    assert got == [1]


def test_a_consumer_that_leaves_frees_the_feeder():
    stream = ResultStream(1, 10)
    stream.enter(0)
    thread, got = blocked_in_enter(stream)
    stream.close()
    finish(thread)
    assert got == [None]
    assert stream.closed
    assert stream.enter(0) is None
    stream.put(0, result(0))  # what was in flight may still settle


def test_a_failure_comes_after_the_results_that_are_ready():
    stream = ResultStream(10, 10)
    for _ in range(5):
        stream.enter(0)
    for number in (0, 1, 3):
        stream.put(number, result(number))
    stream.fail(RuntimeError("the engine died"))
    stream.fail(RuntimeError("a second complaint"))
    seen = []
    with pytest.raises(RuntimeError, match="the engine died"):
        for results in stream:
            seen += [r.index for r in results]
    assert seen == [0, 1]
    assert stream.enter(0) is None, "no more is wanted"


def test_a_failure_frees_the_feeder_and_the_consumer():
    stream = ResultStream(1, 10)
    stream.enter(0)
    feeder, got = blocked_in_enter(stream)
    raised = []

    def consume() -> None:
        try:
            flat(stream)
        except RuntimeError as error:
            raised.append(str(error))

    consumer = run(consume)
    eventually(lambda: len(stream._changed._waiters) == 2, "the consumer waits too")
    stream.fail(RuntimeError("died"))
    finish(feeder)
    finish(consumer)
    assert got == [None] and raised == ["died"]


def test_an_end_with_an_error_waits_for_all_that_came_before():
    """A source that breaks off does not cost the results of what it brought."""
    stream = ResultStream(10, 10)
    for _ in range(3):
        stream.enter(0)
    stream.put(0, result(0))
    stream.end(OSError("the camera is gone"))
    batches = iter(stream)
    seen = [r.index for r in next(batches)]
    thread = run(lambda: [stream.put(n, result(n)) for n in (2, 1)])
    with pytest.raises(OSError, match="the camera is gone"):
        for results in batches:
            seen += [r.index for r in results]
    assert seen == [0, 1, 2]
    finish(thread)
