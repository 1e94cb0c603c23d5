"""Delivery: callers' callbacks run on a thread of their own, in order, whatever they raise."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import Future

import pytest
from engine_kit import PATIENCE_S, eventually

from brimful.detections import Detections
from brimful.engine.delivery import Delivery, DetectionsFuture

THREAD = "brimful-delivery"


def result(number: int = 0) -> Detections:
    return Detections(image="x", index=number, width=1, height=1, task="detect", names=("a",))


@pytest.fixture
def threads():
    """Return what tells the delivery threads of this test; at its end there must be none."""
    before = set(threading.enumerate())

    def started() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t.name == THREAD and t not in before]

    yield started
    eventually(lambda: started() == [], "every delivery thread has ended")


@pytest.fixture
def delivery(threads):
    made = Delivery()
    yield made
    made.close(PATIENCE_S)
    assert threads() == []


def test_its_thread_comes_with_the_first_callback(delivery, threads):
    future = DetectionsFuture(delivery)
    future.set_result(result())
    assert threads() == []
    seen: list[str] = []
    future.add_done_callback(lambda _: seen.append(threading.current_thread().name))
    eventually(lambda: seen == [THREAD], "it was called")
    assert len(threads()) == 1


def test_callbacks_run_in_order_on_one_thread_whoever_sets_the_result(delivery):
    seen: list[tuple[int, int]] = []
    done = threading.Event()
    futures = [DetectionsFuture(delivery) for _ in range(60)]

    def note(number: int, future: Future) -> None:
        assert future.result(0).index == number
        seen.append((number, threading.get_ident()))
        if len(seen) == 2 * len(futures):
            done.set()

    for number, future in enumerate(futures):
        future.add_done_callback(lambda f, n=number: note(n, f))
        future.add_done_callback(lambda f, n=number: note(n, f))
    settlers = []
    for number, future in enumerate(futures):
        settler = threading.Thread(target=future.set_result, args=(result(number),))
        settler.start()
        settler.join(PATIENCE_S)
        settlers.append(settler)
    assert done.wait(PATIENCE_S)
    assert [number for number, _ in seen] == [n for i in range(60) for n in (i, i)]
    (thread,) = {ident for _, ident in seen}
    assert thread != threading.get_ident()


@pytest.mark.parametrize("how", ["error", "cancel", "late"])
def test_every_end_of_a_future_is_told_on_that_thread(delivery, how):
    future = DetectionsFuture(delivery)
    seen: list[tuple[str, Future]] = []

    def note(done: Future) -> None:
        seen.append((threading.current_thread().name, done))

    if how == "late":
        future.set_result(result())
    future.add_done_callback(note)
    if how == "error":
        future.set_exception(RuntimeError("stopped"))
    elif how == "cancel":
        assert future.cancel()
    eventually(lambda: seen == [(THREAD, future)], "it was called, once")


@pytest.mark.parametrize("kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit])
def test_one_that_raises_stops_no_other(delivery, kind, caplog):
    def leave() -> None:
        raise kind("its own affair")

    seen: list[int] = []
    delivery.put(leave)
    delivery.put(lambda: seen.append(1))
    eventually(lambda: seen == [1], "the next was called")
    assert "a callback of a result raised" in caplog.text
    assert "its own affair" in caplog.text


def test_a_result_is_there_although_a_callback_takes_long(delivery):
    held = threading.Event()
    first, second = DetectionsFuture(delivery), DetectionsFuture(delivery)
    first.add_done_callback(lambda _: held.wait(PATIENCE_S))
    first.set_result(result(1))
    second.set_result(result(2))
    assert (first.result(0).index, second.result(0).index) == (1, 2)
    held.set()


def test_close_runs_what_was_put_before(threads):
    delivery = Delivery()
    held = threading.Event()
    seen: list[int] = []
    delivery.put(lambda: held.wait(PATIENCE_S))
    for number in range(50):
        delivery.put(lambda n=number: seen.append(n))
    closer = threading.Thread(target=delivery.close, args=(PATIENCE_S,))
    closer.start()
    held.set()
    closer.join(PATIENCE_S)
    assert seen == list(range(50))


def test_close_waits_no_longer_than_it_is_told(threads):
    delivery = Delivery()
    held = threading.Event()
    delivery.put(held.wait)
    delivery.close(0.01)
    (thread,) = threads()
    held.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_it_may_be_closed_from_a_callback(threads):
    delivery = Delivery()
    seen: list[str] = []
    ready = threading.Event()

    def close() -> None:
        assert ready.wait(PATIENCE_S)
        delivery.close(PATIENCE_S)  # waits for nobody: this is the thread that ends
        seen.append("closed")

    delivery.put(close)
    delivery.put(lambda: seen.append("put before"))
    (thread,) = threads()
    ready.set()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert seen == ["closed", "put before"]


def test_close_without_any_callback_and_twice(threads):
    delivery = Delivery()
    delivery.close(PATIENCE_S)
    delivery.close(PATIENCE_S)
    assert threads() == []


def test_a_callback_that_comes_after_close_runs_and_leaves_no_thread(threads):
    delivery = Delivery()
    future = DetectionsFuture(delivery)
    future.set_result(result())
    seen: list[str] = []
    future.add_done_callback(lambda _: seen.append("before"))
    delivery.close(PATIENCE_S)
    for number in range(3):
        future.add_done_callback(lambda _, n=number: seen.append(str(n)))
    eventually(lambda: len(seen) == 4, "all have run")
    assert seen[0] == "before" and sorted(seen[1:]) == ["0", "1", "2"]


def test_an_idle_thread_keeps_nothing_alive(delivery):
    future = DetectionsFuture(delivery)
    found = result()
    reference = weakref.ref(found.boxes)
    future.add_done_callback(lambda _: None)
    future.set_result(found)
    del future, found
    eventually(lambda: gc.collect() >= 0 and reference() is None, "it is gone")
