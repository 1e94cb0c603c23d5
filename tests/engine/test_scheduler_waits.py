"""Whoever waits in the scheduler is woken by what it waits for, and by its end."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from engine_kit import PATIENCE_S, eventually, waits
from scheduler_kit import World, numbers

from brimful.engine.batches import Joined
from brimful.errors import EngineStoppedError


class Call:
    """A call on a thread of its own, and what came of it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.outcome: object = None

        def run() -> None:
            try:
                self.outcome = call()
            except Exception as error:
                self.outcome = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def blocks(self) -> Call:
        eventually(lambda: waits(self._thread), "it waits")
        return self

    def result(self) -> object:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return self.outcome


def test_a_chunk_that_does_not_fit_waits_for_the_rest_of_its_room():
    world = World(queue=5, slots=9)
    scheduler = world.scheduler
    world.admit(4)
    feeder = Call(lambda: scheduler.admit(world.requests(6), wait=True)).blocks()
    taken: list[int] = []
    while len(taken) < 10:
        taken += numbers(scheduler.take(3)[0])
    assert feeder.result() == (6, [])
    assert taken == list(range(10))
    assert scheduler.load().live == 10


def test_bytes_that_come_free_let_a_feeder_in():
    world = World(queue_bytes=100)
    made = world.admit(1, nbytes=100)
    world.join(world.take())
    feeder = Call(lambda: world.scheduler.admit(world.requests(1, nbytes=1), wait=True)).blocks()
    world.finish(made)
    assert feeder.result() == (1, [])


def test_a_feeder_whose_requests_nobody_wants_any_more_is_let_go():
    world = World(queue=5)
    world.admit(4)
    feeder = Call(lambda: world.scheduler.admit(world.requests(2), wait=True)).blocks()
    world.answers.wants = False
    world.scheduler.wake_feeders()
    assert feeder.result() == (0, [])


def test_a_drain_lets_feeders_go_and_waits_for_the_last_outcome():
    world = World(queue=5)
    world.admit(4)
    feeder = Call(lambda: world.scheduler.admit(world.requests(2), wait=True)).blocks()
    drain = Call(lambda: world.scheduler.drain(None)).blocks()
    assert feeder.result() == (0, [])
    taken = world.take()
    world.finish(taken[1:])
    drain.blocks()
    world.finish(taken[:1])
    assert drain.result() is True


def test_every_worker_is_woken_by_as_many_images():
    world = World()
    workers = [Call(lambda: world.scheduler.take(1)).blocks() for _ in range(3)]
    world.admit(3)
    assert sorted(numbers(w.result()[0])[0] for w in workers) == [0, 1, 2]


def test_room_in_batches_wakes_a_worker():
    world = World(slots=1, batch=2, prefetch=0)
    (running,) = world.run(2)
    world.admit(2)
    worker = Call(lambda: world.scheduler.take(2)).blocks()
    world.land(running)
    assert numbers(worker.result()[0]) == [2, 3]


def test_an_image_that_cannot_be_decoded_makes_room_and_wakes_a_worker():
    world = World(slots=1, batch=2)
    world.admit(4)
    taken = world.take()
    assert len(taken) == 2
    joined = world.join(taken[1:])
    worker = Call(lambda: world.scheduler.take(2)).blocks()
    world.finish(taken[:1])
    assert numbers(worker.result()[0]) == [2]
    del joined


def test_a_newcomer_wakes_a_worker_that_had_no_room_for_others():
    world = World(slots=3, batch=2, prefetch=0)
    world.run(2, "job")
    world.run(2, "job")
    world.admit(3, "job")
    worker = Call(lambda: world.scheduler.take(9)).blocks()
    world.admit(1, "camera")
    assert [r.source for r in worker.result()[0]] == ["camera"]


def no_slot_left(world: World) -> list[Joined]:
    """Use both slots of a world with batches of two; return a part that is still to be written.

    There was room for two more, and those that are taken afterwards are of other canvases.
    """
    world.admit(1, "a")
    world.admit(1, "b", width=32)
    partial = world.join(world.take(1))
    world.join(world.take(1))
    return partial


def test_a_slot_that_comes_free_wakes_who_needs_one_of_another_canvas():
    world = World(slots=2, batch=3, prefetch=0)
    (running,) = world.run(3, "a")
    world.admit(1, "b")
    world.join(world.take(1))  # the other slot has room for two more, but of its own canvas
    world.admit(1, "c", height=32)
    world.admit(1, "d", width=32)
    waiting = [world.waiting(world.take(1)) for _ in range(2)]
    workers = [Call(lambda w=w: world.scheduler.join(w)).blocks() for w in waiting]
    world.land(running)
    eventually(lambda: any(w.outcome for w in workers), "one of them has joined")
    first = next(w for w in workers if w.outcome)
    (going,) = world.scheduler.written(first.outcome)
    world.land(going)
    canvases = {w.result()[0].batch.canvas for w in workers}
    assert canvases == {(32, 64), (64, 32)}


def test_who_waits_for_a_slot_joins_the_batch_that_another_one_opens():
    world = World(slots=2, batch=2, prefetch=0)
    partial = no_slot_left(world)
    for source in "cd":
        world.admit(1, source, height=32)
    waiting = [world.waiting(world.take(1)) for _ in range(2)]
    workers = [Call(lambda w=w: world.scheduler.join(w)).blocks() for w in waiting]
    (running,) = world.scheduler.written(partial)
    world.land(running)
    joined = [part for worker in workers for part in worker.result()]
    assert len({id(part.batch) for part in joined}) == 1
    assert sorted(part.position for part in joined) == [0, 1]


def test_an_image_for_which_no_slot_has_room_stays_in_the_queue():
    world = World(slots=1, batch=2, prefetch=0)
    (running,) = world.run(2, "a")
    world.admit(1, "b")
    worker = Call(lambda: world.scheduler.take(1)).blocks()
    assert world.scheduler.load().waiting == 1
    world.land(running)
    assert [r.source for r in worker.result()[0]] == ["b"]


def test_while_one_makes_a_slot_others_of_its_canvas_wait_for_it():
    world = World(slots=3, batch=3)
    entered, leave = threading.Event(), threading.Event()
    allocate = world.runtime.allocate

    def slowly(canvas, *, capacity=None):
        entered.set()
        assert leave.wait(PATIENCE_S)
        return allocate(canvas, capacity=capacity)

    world.runtime.allocate = slowly
    world.admit(2)
    first, second = (world.waiting(world.take(1)) for _ in range(2))
    maker = Call(lambda: world.scheduler.join(first))
    assert entered.wait(PATIENCE_S)
    other = Call(lambda: world.scheduler.join(second)).blocks()
    leave.set()
    (one,), (two,) = maker.result(), other.result()
    assert one.batch is two.batch and world.runtime.allocated == 1


def test_while_one_makes_a_slot_nobody_opens_another_batch_of_its_canvas():
    world = World(slots=4, batch=2)
    (running,) = world.run(2)
    entered, leave = threading.Event(), threading.Event()
    allocate = world.runtime.allocate

    def slowly(canvas, *, capacity=None):
        entered.set()
        assert leave.wait(PATIENCE_S)
        return allocate(canvas, capacity=capacity)

    world.runtime.allocate = slowly
    world.admit(2)
    first, second = (world.waiting(world.take(1)) for _ in range(2))
    maker = Call(lambda: world.scheduler.join(first))
    assert entered.wait(PATIENCE_S)
    world.land(running)  # its slot is free, and of that canvas
    other = Call(lambda: world.scheduler.join(second)).blocks()
    leave.set()
    (one,), (two,) = maker.result(), other.result()
    assert one.batch is two.batch


@pytest.mark.parametrize("deadline", [None, 200.0])
def test_the_clock_is_woken_by_the_first_image_and_by_an_earlier_deadline(monkeypatch, deadline):
    wait = threading.Condition.wait
    monkeypatch.setattr(threading.Condition, "wait", lambda self, timeout=None: wait(self))
    world = World(slots=9, batch=4, prefetch=0)
    if deadline is not None:
        world.join(world.requests_taken(1))
    clock = Call(lambda: world.scheduler.await_due(1e9)).blocks()  # for ever, if nobody wakes it
    world.join(world.requests_taken(1, deadline=deadline))
    assert clock.result() is True


def test_the_last_landing_ends_the_wait_for_the_device():
    world = World(batch=1, prefetch=1)
    (first,), (second,) = world.run(1), world.run(1)
    waiter = Call(lambda: world.scheduler.await_landings(1e6)).blocks()
    world.scheduler.landed(first, None, good=True)
    waiter.blocks()
    world.scheduler.landed(second, None, good=False)
    assert waiter.result() is True


def test_a_stop_wakes_everybody():
    world = World(slots=2, batch=2, queue=5, prefetch=0)
    partial = no_slot_left(world)
    world.admit(2, "c", height=32)
    waiting = world.waiting(world.take())
    (running,) = world.scheduler.written(partial)
    world.admit(3, "a")
    scheduler = world.scheduler
    partly = Call(lambda: scheduler.admit(world.requests(9, "a"), wait=True)).blocks()
    feeder = Call(lambda: scheduler.admit(world.requests(9, "a"), wait=True)).blocks()
    worker = Call(lambda: scheduler.take(1)).blocks()
    joining = Call(lambda: scheduler.join(waiting)).blocks()
    clock = Call(lambda: scheduler.await_due(1e9)).blocks()
    abandoned = scheduler.stop(EngineStoppedError("over"))
    admitted, replaced = partly.result()
    assert 0 < admitted < 9 and replaced == [], "those that were taken in have an outcome"
    assert isinstance(feeder.result(), EngineStoppedError)
    assert worker.result() is None
    assert joining.result() == []
    assert clock.result() is False
    assert scheduler.drain(None) is True, "nothing is left"
    assert len(abandoned) == len({id(r) for r in abandoned}) >= 5
    assert running.members[0] in abandoned
    with pytest.raises(EngineStoppedError, match="over"):
        scheduler.admit(world.requests(1), wait=False)


def test_a_stop_ends_a_drain():
    world = World()
    world.admit(1)
    drain = Call(lambda: world.scheduler.drain(None)).blocks()
    world.scheduler.stop(EngineStoppedError("over"))
    assert drain.result() is True
