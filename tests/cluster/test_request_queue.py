"""The line of submitted images alone: no process, no thread."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from brimful.cluster.packing import pack
from brimful.cluster.pool_request import PoolRequest
from brimful.cluster.request_queue import MOST_CRASHES, RequestQueue
from brimful.engine.delivery import Delivery, DetectionsFuture
from brimful.sources.image import SourceImage


def request(source=None, **options) -> PoolRequest:
    item = pack(SourceImage(index=0, key="k", payload="x.png"), None)
    return PoolRequest(DetectionsFuture(Delivery()), item, source, **options)


def test_what_a_broken_device_held_goes_out_first_and_is_no_suspect():
    queue = RequestQueue(10)
    first, second = request(), request()
    for each in (first, second):
        assert queue.offer(each) == []
    assert queue.take() is first
    assert queue.give_back(first, crashed=False)
    assert queue.take() is first and not first.suspect
    assert queue.suspects == 0 and queue.take() is second and queue.take() is None


def test_a_suspect_is_handed_out_apart_and_only_a_second_crash_convicts_it():
    queue = RequestQueue(10)
    suspect, other = request(), request()
    queue.offer(suspect)
    queue.offer(other)
    assert queue.give_back(queue.take(), crashed=True)
    assert queue.suspects == 1 and queue.take() is other and queue.take() is None
    for _ in range(5):
        assert queue.take_suspect() is suspect
        assert queue.give_back(suspect, crashed=False), "a broken device is no crash"
        assert queue.suspects == 1
    assert not queue.give_back(queue.take_suspect(), crashed=True)
    assert len(queue) == 0


def test_the_newest_replaces_what_its_source_has_waiting_and_nothing_else():
    queue = RequestQueue(10)
    other, old, new = request("b"), request("a", line="newest"), request("a", line="newest")
    assert queue.offer(other) == [] and queue.offer(old) == []
    assert queue.offer(new) == [old]
    assert {queue.take(), queue.take()} == {other, new}


def test_it_is_bounded_for_new_ones_only():
    queue = RequestQueue(5)
    taken = []
    while queue.offer(request("a")) is not None:
        taken.append(queue.take())
        queue.offer(request("a"))
        if len(taken) == 20:
            break
    while queue.offer(request("a")) is not None:
        pass
    assert len(queue) <= queue.capacity
    assert queue.offer(request("b")) is not None, "no source takes all of the room"
    for each in taken:
        assert queue.give_back(each, crashed=True)
    assert len(queue.clear()) >= len(taken) and len(queue) == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["offer", "newest", "take", "trial", "answer", "crash", "break"]),
        st.integers(0, 3),
    ),
    max_size=150,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_ends_every_request_has_one_outcome(steps):
    queue = RequestQueue(12)
    everything, outcomes = [], []
    held: list[list[PoolRequest]] = [[], [], [], []]

    def give_back(mine, *, crashed):
        for each in mine:
            before = each.crashes
            if not queue.give_back(each, crashed=crashed):
                assert crashed and before == MOST_CRASHES - 1
                outcomes.append(each)
        mine.clear()

    for action, number in steps:
        mine = held[number]
        if action in ("offer", "newest"):
            new = request(number, line="fifo" if action == "offer" else "newest")
            replaced = queue.offer(new)
            if replaced is not None:
                everything.append(new)
                outcomes += replaced
                assert all(old.source == number for old in replaced)
        elif action == "take":
            if (taken := queue.take()) is not None:
                assert not taken.suspect
                mine.append(taken)
        elif action == "trial":
            if not mine and (taken := queue.take_suspect()) is not None:
                assert taken.suspect
                mine.append(taken)
        elif action == "answer":
            outcomes += mine[:1]
            del mine[:1]
        else:
            give_back(mine, crashed=action == "crash")
    for mine in held:
        give_back(mine, crashed=False)
    waiting = len(queue)
    left = []
    while (taken := queue.take() or queue.take_suspect()) is not None:
        left.append(taken)
    assert len(left) == waiting
    outcomes += left
    assert len(outcomes) == len(everything) and set(outcomes) == set(everything)
