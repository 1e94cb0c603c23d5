"""The fair queue: by priority, then fair between sources by pixels, with room for every one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from brimful.engine.fair_queue import FairQueue

FULL = 100
"""What a visit credits a line, and the largest cost of an item."""


@dataclass(eq=False)
class Item:
    source: object
    number: int = 0
    cost: int = FULL
    priority: int = 0

    def __str__(self) -> str:
        return f"{self.source}{self.number}"


def items(source: object, count: int, first: int = 0, **options) -> list[Item]:
    return [Item(source, number, **options) for number in range(first, first + count)]


def queue_of(*lines: list[Item], capacity: int = 10_000) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue(capacity, FULL)
    for line in lines:
        assert queue.offer(line) == len(line)
    return queue


def drain(queue: FairQueue[Item], limit: int = 1) -> list[str]:
    taken: list[str] = []
    while some := queue.take(limit):
        assert len(some) <= limit
        taken += map(str, some)
    assert len(queue) == 0
    return taken


def test_sources_take_turns():
    queue = queue_of(items("a", 4), items("b", 2), items("c", 1))
    assert drain(queue) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_thousand_images_do_not_delay_the_first_of_another():
    queue = queue_of(items("job", 1000))
    assert [str(queue.take(1)[0]) for _ in range(10)] == [f"job{i}" for i in range(10)]
    queue.offer(items("camera", 1))
    assert "camera0" in [str(queue.take(1)[0]) for _ in range(2)]


def test_a_source_that_comes_back_has_no_arrears():
    """One that waited long without images does not get a burst of turns."""
    queue = queue_of(items("a", 6))
    assert [str(i) for i in queue.take(3)] == ["a0", "a1", "a2"]
    queue.offer(items("b", 3))
    assert drain(queue) == ["a3", "b0", "a4", "b1", "a5", "b2"]


def test_a_line_that_empties_loses_its_credit():
    queue = queue_of(items("cheap", 1, cost=10), items("job", 10))
    assert [str(i) for i in queue.take(2)] == ["cheap0", "job0"]
    queue.charge("cheap", 0, -90)  # it has nothing waiting, so there is nothing to correct
    queue.offer(items("cheap", 30, cost=10))
    assert Counter(i.source for i in queue.take(11)) == {"job": 1, "cheap": 10}


def test_a_visit_hands_out_a_full_canvas_of_small_images():
    queue = queue_of(items("small", 9, cost=25), items("large", 3))
    assert drain(queue, limit=3)[:10] == [
        *("small0", "small1", "small2", "small3", "large0"),
        *("small4", "small5", "small6", "small7", "large1"),
    ]


def test_a_higher_priority_goes_first_whoever_it_is_from():
    queue = queue_of(
        items("a", 2), items("b", 2, priority=-1), items("a", 2, 2, priority=5), items("c", 1)
    )
    queue.offer(items("b", 2, 2, priority=5))
    assert drain(queue, limit=2) == ["a2", "b2", "a3", "b3", "a0", "c0", "a1", "b0", "b1"]


def test_only_sources_that_are_allowed_are_served():
    queue = queue_of(items("a", 2, priority=1), items("b", 2), items("c", 2), items("d", 1))
    taken = queue.take(4, lambda source: source in ("b", "d"))
    assert sorted(map(str, taken)) == ["b0", "b1", "d0"]
    assert queue.take(4, lambda source: False) == []
    assert sorted(drain(queue)) == ["a0", "a1", "c0", "c1"]


def test_what_a_source_may_not_take_now_it_takes_later():
    """Being passed over costs neither its place nor its credit."""
    queue = queue_of(items("a", 3), items("b", 3))
    assert list(map(str, queue.take(2, lambda source: source == "b"))) == ["b0", "b1"]
    assert drain(queue)[:2] == ["a0", "b2"]


def test_the_newest_replaces_what_its_source_has_waiting():
    queue = queue_of(items("job", 2), capacity=10)
    first, *others = items("cam", 3)
    assert queue.replace(first) == []
    assert queue.replace(others[0]) == [first]
    assert queue.replace(others[1]) == [others[0]]
    assert len(queue) == 3
    assert drain(queue) == ["job0", "cam2", "job1"], "it keeps its source's place"


def test_one_replaces_all_that_wait_and_gives_their_room_back():
    queue = queue_of(items("cam", 5), capacity=10)
    room = queue.room("other")
    assert len(queue.replace(Item("cam", 9))) == 5
    assert len(queue) == 1 and queue.room("other") > room
    assert queue.replace(Item("cam", 10, priority=1)) == [], "at its own priority"
    assert drain(queue) == ["cam10", "cam9"]
    assert queue.room("cam") == 8


def test_room_is_kept_for_every_source():
    queue: FairQueue[Item] = FairQueue(100, FULL)
    assert queue.room("job") == 80
    assert queue.offer(items("job", 500)) == 80, "the first ones that there is room for"
    assert queue.room("job") == 0
    assert queue.offer(items("camera", 3)) == 3
    assert queue.offer(items("job", 1)) == 0
    assert list(map(str, queue.take(2))) == ["job0", "camera0"]
    assert set(queue.sources()) == {"job", "camera"}


def test_clear_returns_everyone_who_waited():
    queue = queue_of(items(0, 3), items(1, 3, priority=2), capacity=20)
    assert sorted(map(str, queue.clear())) == ["00", "01", "02", "10", "11", "12"]
    assert len(queue) == 0 and queue.take(1) == []
    assert queue.room(0) == 16, "their room is free again"
    assert queue.offer(items(0, 1)) == 1 and len(queue.take(1)) == 1


COSTS = st.sampled_from([1, 10, 25, 33, 50, 99, 100])


@given(st.lists(COSTS, min_size=2, max_size=5), st.lists(st.integers(1, 9), max_size=60))
def test_sources_that_all_wait_get_equal_shares_of_pixels(costs, limits):
    """At any moment, two sources differ by one visit and one image at most."""
    queue = queue_of(*(items(s, 1200, cost=cost) for s, cost in enumerate(costs)))
    served: Counter[int] = Counter(dict.fromkeys(range(len(costs)), 0))
    for limit in limits:
        for item in queue.take(limit):
            served[item.source] += item.cost
            assert max(served.values()) - min(served.values()) < FULL + max(costs)


@given(st.lists(COSTS, min_size=2, max_size=4))
def test_shares_are_equal_although_costs_are_known_only_later(costs):
    """Every item is taken at the full cost, and what it really cost is told soon after."""
    queue = queue_of(*(items(source, 450) for source in range(len(costs))))
    served: Counter[int] = Counter(dict.fromkeys(range(len(costs)), 0))
    for _ in range(400):
        (item,) = queue.take(1)
        queue.charge(item.source, 0, costs[item.source] - FULL)
        served[item.source] += costs[item.source]
    assert max(served.values()) - min(served.values()) < 2 * FULL


def test_credit_does_not_pile_up_while_nobody_competes():
    queue = queue_of(items("a", 500))
    for _ in range(100):
        queue.take(1)
        queue.charge("a", 0, -99)
    queue.offer(items("b", 500))
    first = [item.source for item in queue.take(12)]
    assert first.count("b") >= 4


def test_what_cost_more_than_was_thought_is_paid_back():
    queue = queue_of(items("a", 9), items("b", 9))
    queue.take(1)
    queue.charge("a", 0, 2 * FULL)
    assert [i.source for i in queue.take(6)] == ["b", "b", "b", "a", "b", "a"]


EVENTS = st.one_of(
    st.tuples(
        st.just("offer"),
        st.integers(0, 3),
        st.integers(-1, 1),
        st.lists(COSTS, min_size=1, max_size=6),
    ),
    st.tuples(st.just("replace"), st.integers(0, 3), st.integers(-1, 1), COSTS),
    st.tuples(st.just("take"), st.integers(1, 7), st.sets(st.integers(0, 3)) | st.none()),
    st.tuples(st.just("charge"), st.integers(0, 3), st.integers(-1, 1), st.integers(-99, 99)),
)


@given(st.lists(EVENTS, max_size=60), st.integers(1, 30))
def test_nothing_is_lost_and_each_source_keeps_its_order(events, capacity):
    queue: FairQueue[Item] = FairQueue(capacity, FULL)
    waiting: list[Item] = []
    number = 0
    for kind, *arguments in events:
        if kind == "offer":
            source, priority, costs = arguments
            room = queue.room(source)
            offered = [Item(source, number + i, c, priority) for i, c in enumerate(costs)]
            number += len(offered)
            entered = queue.offer(offered)
            assert entered == min(len(offered), room)
            waiting += offered[:entered]
        elif kind == "replace":
            source, priority, cost = arguments
            newest = Item(source, number, cost, priority)
            number += 1
            gone = [i for i in waiting if (i.source, i.priority) == (source, priority)]
            assert queue.replace(newest) == gone
            waiting = [i for i in waiting if i not in gone] + [newest]
        elif kind == "take":
            limit, sources = arguments
            allowed = None if sources is None else sources.__contains__
            able = [i for i in waiting if sources is None or i.source in sources]
            taken = queue.take(limit, allowed)
            assert len(taken) == min(limit, len(able)), "as many as there are"
            assert sorted(-i.priority for i in able)[: len(taken)] == [-i.priority for i in taken]
            for item in taken:
                own = [i for i in waiting if (i.source, i.priority) == (item.source, item.priority)]
                assert own[0] is item
                waiting.remove(item)
        else:
            queue.charge(*arguments)
        assert len(queue) == len(waiting)
        assert set(queue.sources()) == {i.source for i in waiting}
    assert sorted(i.number for i in queue.clear()) == sorted(i.number for i in waiting)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.lists(COSTS, min_size=1, max_size=9)), max_size=12),
    st.lists(st.integers(1, 7), max_size=40),
    st.integers(1, 40),
)
def test_taking_some_is_taking_one_by_one(offers, limits, capacity):
    some: FairQueue[Item] = FairQueue(capacity, FULL)
    single: FairQueue[Item] = FairQueue(capacity, FULL)
    for source, costs in offers:
        line = [Item(source, number, cost) for number, cost in enumerate(costs)]
        entered = some.offer(line)
        offered = [single.offer([item]) for item in line]
        assert offered == [1] * entered + [0] * (len(line) - entered)
    for limit in limits:
        one_by_one = [item for _ in range(limit) for item in single.take(1)]
        assert some.take(limit) == one_by_one
        assert len(some) == len(single)


@given(st.lists(st.one_of(st.integers(0, 4), st.none()), max_size=120), st.integers(1, 20))
def test_no_source_waits_longer_than_a_round(events, capacity):
    """None takes an image, a number offers one of that source."""
    queue: FairQueue[Item] = FairQueue(capacity, FULL)
    waiting: Counter[int] = Counter()
    turns_since: dict[int, Counter[int]] = {}
    for source in [*events, *[None] * len(events)]:
        if source is not None:
            if queue.offer([Item(source)]):
                waiting[source] += 1
                turns_since.setdefault(source, Counter())
            continue
        taken = queue.take(1)
        if not taken:
            assert not waiting.total()
            continue
        served = taken[0].source
        waiting[served] -= 1
        for other, turns in turns_since.items():
            if other != served:
                turns[served] += 1
                assert turns[served] <= 1, f"{served} had two turns while {other} waited"
        if waiting[served]:
            turns_since[served] = Counter()
        else:
            turns_since.pop(served)
    assert not waiting.total()
