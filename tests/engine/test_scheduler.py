"""The scheduler: from admission to exactly one outcome, step by step and without a thread."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest
from scheduler_kit import World, WouldWaitError, numbers

from brimful.engine.batches import SlotError
from brimful.engine.request import State
from brimful.errors import RuntimeFailedError
from brimful.runtimes.runtime import OutOfMemoryError


def test_a_request_reaches_every_stage_and_is_counted_there():
    world = World(batch=2)
    load = world.scheduler.load

    def counts() -> tuple[int, ...]:
        now = load()
        return now.live, now.waiting, now.preparing, now.batched, now.running, now.slots

    first, second = world.admit(2, nbytes=10)
    assert counts() == (2, 2, 0, 0, 0, 0) and load().nbytes == 20
    world.now = 101.0
    taken = world.take()
    assert counts() == (2, 0, 2, 0, 0, 0)
    joined = world.join(taken)
    assert counts() == (2, 0, 0, 2, 0, 1)
    world.now = 102.0
    (running,) = world.launch(joined)
    assert counts() == (2, 0, 0, 0, 1, 1)
    world.now = 103.0
    assert world.scheduler.landed(running, 0.5, good=True)
    assert counts() == (2, 0, 0, 0, 0, 1)
    world.now = 104.0
    assert world.scheduler.finish([first]) == [first]
    assert counts() == (1, 0, 0, 0, 0, 1) and load().nbytes == 10
    assert world.scheduler.finish([first, second]) == [second], "each has one outcome"
    world.scheduler.release(running.slot)
    assert counts() == (0, 0, 0, 0, 0, 0) and load().nbytes == 0
    times = first.times
    assert (times.arrived, times.taken, times.launched) == (100.0, 101.0, 102.0)
    assert (times.landed, times.settled) == (103.0, 104.0)
    assert first.state is State.DONE


# Admission ----------------------------------------------------------------------------------------


def test_what_there_is_no_room_for_is_left_to_the_caller():
    world = World(queue=10)
    made = world.requests(12)
    assert world.scheduler.admit(made, wait=False) == (8, [])
    assert world.scheduler.admit(made[8:], wait=False) == (0, [])
    assert world.scheduler.admit(world.requests(1, "another"), wait=False) == (1, [])
    assert numbers(world.take()) == [0, 12, 1, 2, 3, 4, 5, 6, 7]


def test_bytes_bound_what_is_admitted():
    world = World(queue_bytes=100)
    assert world.scheduler.admit(world.requests(20, nbytes=10), wait=False) == (8, [])
    assert world.scheduler.admit(world.requests(1, "other", nbytes=30), wait=False) == (0, [])
    assert world.scheduler.admit(world.requests(2, "other", nbytes=10), wait=False) == (1, [])
    assert world.scheduler.admit(world.requests(3), wait=False) == (3, []), "paths hold none"
    taken = world.take()
    world.finish(taken)
    assert world.scheduler.load().nbytes == 0
    assert world.scheduler.admit(world.requests(2, nbytes=500), wait=False) == (1, [])


def test_a_deadline_that_has_passed_ends_the_wait_for_room():
    world = World(queue=5)
    world.admit(4)
    assert world.scheduler.admit(world.requests(1, deadline=100.0), wait=True) == (0, [])
    world.take(1)
    assert world.scheduler.admit(world.requests(2, deadline=100.0), wait=True) == (1, [])


def test_what_nobody_wants_is_not_admitted():
    world = World()
    world.answers.wants = False
    assert world.scheduler.admit(world.requests(3), wait=True) == (0, [])
    assert world.scheduler.load().live == 0


def test_the_newest_replaces_what_waits_and_gives_its_bytes_back():
    world = World()
    world.admit(1, "job")
    first = world.admit(1, "cam", line="newest", nbytes=10)
    second = world.requests(1, "cam", line="newest", nbytes=10)
    assert world.scheduler.admit(second, wait=False) == (1, first)
    assert first[0].state is State.DONE
    assert (world.scheduler.load().live, world.scheduler.load().nbytes) == (2, 10)
    third = world.requests(3, "cam", line="newest", nbytes=10)
    admitted, replaced = world.scheduler.admit(third, wait=False)
    assert (admitted, numbers(replaced)) == (3, numbers([*second, *third[:2]]))
    taken = world.take()
    assert sorted(numbers(taken)) == [0, third[2].number]
    assert world.scheduler.admit(world.requests(1, "cam", line="newest"), wait=False) == (1, [])


def test_nothing_is_admitted_while_it_drains():
    world = World()
    made = world.admit(2)
    assert not world.scheduler.drain(0)
    assert world.scheduler.draining
    assert world.scheduler.admit(world.requests(1), wait=True) == (0, [])
    world.finish(world.take())
    assert world.scheduler.drain(0), "what was admitted is finished"
    assert world.outcomes == Counter(made)


# Taking -------------------------------------------------------------------------------------------


def test_workers_share_what_waits():
    world = World(slots=40)
    world.admit(10)
    sizes = []
    while sum(sizes) < 10:
        sizes.append(len(world.take(32, 4)))
    assert sizes == [3, 2, 2, 1, 1, 1]
    world.admit(100)
    assert len(world.take(8, 4)) == 8, "and no more than they can take"


def test_the_late_and_the_unwanted_come_apart():
    world = World()
    world.admit(2, deadline=100.0)
    world.admit(2, deadline=100.5)
    world.admit(2)
    world.answers.unwanted = {3, 5}
    taken = world.scheduler.take(9)
    assert [numbers(part) for part in taken] == [[2, 4], [0, 1, 3, 5]]
    assert world.scheduler.load().preparing == 6
    world.finish(taken[1])
    assert world.scheduler.load().preparing == 2


def test_no_more_are_taken_than_there_is_room_for_in_batches():
    """Three slots of four, of which one is kept."""
    world = World(slots=3, batch=4, concurrency=1, prefetch=0)
    world.admit(50)
    assert len(world.take()) == 8
    assert world.scheduler.load().waiting == 42


def test_one_slot_is_kept_for_a_source_that_has_nothing_in_a_batch():
    world = World(slots=3, batch=4, prefetch=0)
    world.admit(50, "job")
    (running,) = world.launch(world.join(world.take(4)))
    world.join(world.take(4))
    world.admit(2, "camera")
    assert [r.source for r in world.take(9)] == ["camera"], "the job's have to wait"
    assert world.scheduler.load().slots == 2
    del running


def test_the_kept_slot_is_taken_by_the_newcomer_and_by_no_other():
    world = World(slots=3, batch=2, prefetch=0, max_delay_ms=0.0)
    (running,) = world.run(2, "job")
    world.run(2, "job")
    assert world.scheduler.load().slots == 2
    world.admit(1, "camera")
    camera = world.take(9)
    joined = world.join(camera)
    assert world.scheduler.load().slots == 3
    assert [r.source for r, _ in joined[0].images] == ["camera"]
    world.launch(joined)
    (going,) = world.land(running)
    assert [r.source for r in going.members] == ["camera"], "it launched longer ago: never"


def test_a_source_in_batches_does_not_open_a_batch_in_the_kept_slot():
    world = World(slots=3, batch=4, prefetch=0)
    world.join(world.requests_taken(1, "job"))
    world.join(world.requests_taken(1, "job", width=32))
    third = world.requests_taken(1, "job", height=32)
    with pytest.raises(WouldWaitError):
        world.join(third)
    camera = world.requests_taken(1, "camera", height=32)
    assert [j.batch.canvas for j in world.join(camera)] == [(32, 64)]
    assert [j.position for j in world.join(third)] == [1], "what is open is open to all"


def test_a_source_that_has_nothing_left_counts_as_new():
    world = World(slots=9, batch=1, prefetch=0)
    (first,) = world.run(1, "a")
    world.run(1, "b")
    (second,) = world.land(first)
    world.run(1, "a")
    world.run(1, "c")
    (third,) = world.land(second)
    assert third.members[0].source == "a", "it came before c, and neither has launched"


def test_what_cannot_be_decoded_makes_room_for_others():
    world = World(slots=3, batch=4)
    world.admit(20)
    taken = world.take()
    assert len(taken) == 8
    world.finish(taken[:3])
    assert len(world.take()) == 3


# Batches ------------------------------------------------------------------------------------------


def test_all_that_can_join_do_so_together():
    world = World(batch=4)
    world.admit(3)
    world.admit(2, width=32)
    waiting = world.waiting(world.take())
    joined = world.scheduler.join(waiting)
    assert [(j.batch.canvas, j.position, len(j.images)) for j in joined] == [((64, 64), 0, 3)]
    joined = world.scheduler.join(waiting)
    assert [(j.batch.canvas, j.position, len(j.images)) for j in joined] == [((64, 32), 0, 2)]
    assert not waiting
    world.admit(1)
    (more,) = world.join(world.take())
    assert more.position == 3, "a later one gets the next row"


def test_what_it_really_costs_is_counted_once_it_is_placed():
    world = World(slots=30, batch=1)
    world.admit(12, "small", width=32)
    world.admit(12, "large")
    order = []
    for _ in range(12):
        taken = world.take(1)
        order += [r.source for r in taken]
        world.join(taken)
    assert Counter(order) == {"small": 8, "large": 4}


def test_a_batch_with_an_unwritten_image_does_not_go():
    world = World(batch=4)
    world.admit(2)
    (one,), (two,) = (world.join(world.take(1)) for _ in range(2))
    assert world.launch([one]) == []
    assert [numbers(r.members) for r in world.launch([two])] == [[0, 1]]


def test_members_that_are_dropped_leave_a_hole():
    """Cancelled, late, and one whose pixels could not be written."""
    world = World(batch=8, prefetch=0)
    (first,) = world.run(1)
    made = [*world.admit(3), *world.admit(1, deadline=101.0), *world.admit(2)]
    joined = world.join(world.take())
    world.finish([made[2]])
    assert world.launch(joined) == []
    world.answers.unwanted = {made[0].number}
    world.now = 101.0
    (going,) = world.land(first)
    assert numbers(going.members) == numbers([made[1], made[4], made[5]])
    assert going.positions == [1, 4, 5]
    assert [int(going.slot.inputs[p, 0, 0, 0]) for p in going.positions] == numbers(going.members)
    assert sorted(numbers(going.dropped)) == numbers([made[0], made[2], made[3]])
    world.land(going)
    assert world.outcomes == Counter([*first.members, *made]) - Counter()
    assert world.scheduler.load().live == world.scheduler.load().slots == 0


def test_members_at_the_front_need_not_be_moved():
    world = World(batch=8, prefetch=0)
    (first,) = world.run(1)
    made = world.admit(4)
    world.launch(world.join(world.take()))
    world.answers.unwanted = {made[3].number}
    (going,) = world.land(first)
    assert going.positions is None and len(going.members) == 3 and len(going.dropped) == 1


def test_a_batch_that_nobody_wants_frees_its_slot_and_the_next_goes_at_once():
    world = World(slots=4, batch=2, prefetch=0)
    (first,) = world.run(2)
    unwanted = world.admit(2)
    world.launch(world.join(world.take()))
    wanted = world.admit(2)
    world.launch(world.join(world.take()))
    assert world.scheduler.load().slots == 3
    world.answers.unwanted = set(numbers(unwanted))
    assert world.scheduler.landed(first, None, good=True)
    empty, going = world.scheduler.launch()
    assert empty.members == [] and empty.dropped == unwanted
    assert going.members == wanted
    assert world.scheduler.load().running == 1
    world.settle_dropped([empty])
    assert world.scheduler.load().slots == 2
    assert all(world.outcomes[r] == 1 for r in unwanted)


def test_what_is_launched_keeps_no_image_alive_once_it_is_finished():
    world = World(batch=2)
    (running,) = world.run(2)
    images = [weakref.ref(r.image.payload) for r in running.members]
    gc.disable()
    try:
        world.land(running)
        world.outcomes.clear()
        del running
        assert [image() for image in images] == [None, None], "without the garbage collector"
    finally:
        gc.enable()


# The device ---------------------------------------------------------------------------------------


def test_it_learns_from_forwards_that_succeed_only():
    world = World(batch=2, prefetch=1)
    (first,) = world.run(2)
    (second,) = world.run(2)
    world.now = 103.0
    world.land(first)
    assert world.costs.forward_s((64, 64), 2) == pytest.approx(3.0), "since it was submitted"
    world.now = 107.0
    world.land(second)
    assert world.costs.table() == {(64, 64): {2: pytest.approx(3.5)}}, "since the landing before"
    for seconds, good in [(9.0, False), (0.5, True)]:
        (running,) = world.run(2)
        assert world.scheduler.landed(running, seconds, good=good)
        world.scheduler.release(running.slot)
    assert world.costs.table() == {(64, 64): {2: pytest.approx(3.0)}}, "3, 4 and 0.5"


def test_a_landing_counts_once_and_not_after_it_was_given_up():
    world = World(batch=1, prefetch=1)
    (first,) = world.run(1)
    (second,) = world.run(1)
    assert world.scheduler.landed(first, None, good=True)
    assert not world.scheduler.landed(first, None, good=True)
    world.scheduler.give_up()
    assert world.scheduler.load().running == 0
    assert not world.scheduler.landed(second, None, good=True)
    assert world.scheduler.await_landings(0)


def test_a_forward_that_hangs_is_noticed():
    world = World(batch=1)
    (running,) = world.run(1)
    world.now += 0.03
    assert world.scheduler.await_due(0.04)
    world.now += 0.02
    with pytest.raises(RuntimeFailedError, match=r"has not ended .*stall_s=0.04"):
        world.scheduler.await_due(0.04)
    assert not world.scheduler.landed(running, None, good=True)


@pytest.mark.parametrize("error", [MemoryError("16 GiB"), OutOfMemoryError("16 GiB")])
def test_a_slot_that_there_is_no_memory_for_gives_its_place_back(error):
    world = World(slots=1)
    world.admit(1, width=32)
    waiting = world.waiting(world.take())
    world.runtime.error = error
    for _ in range(3):
        with pytest.raises(SlotError, match="canvas 64x32: 16 GiB") as raised:
            world.scheduler.join(waiting)
        assert raised.value.canvas == (64, 32) and raised.value.__cause__ is error
        assert world.scheduler.load().slots == 0
    world.runtime.error = None
    assert len(world.scheduler.join(waiting)) == 1


def test_whatever_else_keeps_a_slot_from_being_made_is_raised_and_gives_its_place_back():
    world = World(slots=1)
    world.runtime.error = OSError("a bug")
    world.admit(1)
    with pytest.raises(OSError, match="a bug"):
        world.scheduler.join(world.waiting(world.take()))
    assert world.scheduler.load().slots == 0
