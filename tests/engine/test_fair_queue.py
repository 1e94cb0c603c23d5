"""Admission: bounded, and fair between sources."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from brimful.engine.admission import Admission


def drain(line: Admission, now: float = 0.0) -> list:
    taken = []
    while (item := line.take(now)) is not None:
        taken.append(item[0])
    return taken


def test_sources_take_turns():
    line: Admission[str] = Admission(100)
    for i in range(4):
        line.offer(f"a{i}", source="a")
    for i in range(2):
        line.offer(f"b{i}", source="b")
    line.offer("c0", source="c")
    assert drain(line) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]


def test_a_thousand_images_do_not_delay_the_first_of_another():
    line: Admission[tuple] = Admission(2000)
    for i in range(1000):
        line.offer(("job", i), source="job")
    for i in range(10):
        assert line.take(0.0) == (("job", i), False)
    line.offer(("camera", 0), source="camera")
    nexts = [line.take(0.0)[0] for _ in range(2)]
    assert ("camera", 0) in nexts


def test_a_source_that_comes_back_has_no_arrears():
    """One that waited long without images does not get a burst of turns."""
    line: Admission[str] = Admission(100)
    for i in range(6):
        line.offer(f"a{i}", source="a")
    assert [line.take(0.0)[0] for _ in range(3)] == ["a0", "a1", "a2"]
    for i in range(3):
        line.offer(f"b{i}", source="b")
    assert drain(line) == ["a3", "b0", "a4", "b1", "a5", "b2"]


def test_it_is_bounded_over_all_sources():
    line: Admission[int] = Admission(3)
    assert [line.offer(i, source=i) for i in range(5)] == [True, True, True, False, False]
    assert len(line) == 3
    assert line.take(0.0) == (0, False)
    assert line.offer(9, source=9)
    assert drain(line) == [1, 2, 9]


def test_the_expired_are_handed_out_as_expired():
    line: Admission[str] = Admission(9)
    line.offer("late", source=1, deadline=10.0)
    line.offer("due now", source=1, deadline=11.0)
    line.offer("in time", source=1, deadline=11.5)
    line.offer("patient", source=1)
    taken = [line.take(11.0) for _ in range(4)]
    assert taken == [("late", True), ("due now", True), ("in time", False), ("patient", False)]
    assert line.take(11.0) is None


def test_clear_returns_everyone_who_waited():
    line: Admission[int] = Admission(9)
    for i in range(5):
        line.offer(i, source=i % 2)
    assert sorted(line.clear()) == [0, 1, 2, 3, 4]
    assert len(line) == 0 and line.take(0.0) is None
    assert line.offer(7, source=0) and line.take(0.0) == (7, False)


@given(st.lists(st.one_of(st.integers(0, 4), st.none()), max_size=120), st.integers(1, 20))
def test_nothing_is_lost_and_no_source_waits_longer_than_a_round(events, capacity):
    """None takes an image, a number offers one of that source."""
    line: Admission[tuple[int, int]] = Admission(capacity)
    waiting: list[tuple[int, int]] = []
    offered: Counter[int] = Counter()
    turns_since: dict[int, Counter[int]] = {}
    for source in [*events, *[None] * len(events)]:
        if source is not None:
            item = (source, offered[source])
            room = len(waiting) < capacity
            assert line.offer(item, source=source) is room
            if room:
                waiting.append(item)
                offered[source] += 1
                turns_since.setdefault(source, Counter())
            continue
        taken = line.take(0.0)
        if taken is None:
            assert not waiting
            continue
        item = taken[0]
        own = [other for other in waiting if other[0] == item[0]]
        assert item == own[0], "a source's images keep their order"
        waiting.remove(item)
        for other, turns in turns_since.items():
            if other != item[0]:
                turns[item[0]] += 1
                assert turns[item[0]] <= 1, f"{item[0]} had two turns while {other} waited"
        if len(own) > 1:
            turns_since[item[0]] = Counter()
        else:
            turns_since.pop(item[0])
        assert len(line) == len(waiting)
    assert not waiting
