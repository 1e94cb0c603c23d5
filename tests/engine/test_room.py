"""Room: never more than there is, and never all of it for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from brimful.engine.room import Room


@pytest.mark.parametrize(
    ("capacity", "most"), [(1, 1), (2, 1), (4, 3), (5, 4), (10, 8), (128, 102)]
)
def test_a_lone_source_gets_four_fifths(capacity, most):
    room = Room(capacity)
    assert room.units("a") == most
    room.take("a", most)
    assert room.units("a") == 0
    if capacity > most:
        assert room.units("b") >= 1, "there is some left for another"


def test_as_others_come_a_large_share_shrinks():
    room = Room(100)
    room.take("job", 80)
    shares = []
    for client in range(20):
        shares.append(room.units("job"))
        assert room.units(client) >= 1
        room.take(client, 1)
    assert shares == [0] * 20 and room.total == 100
    assert room.units("late") == 0, "everything is taken"
    room.give("job", 30)
    assert room.units("job") == 14, "a fifth of what came free is left for others"
    assert room.units("late") == 24


def test_bytes_are_shared_as_units_are():
    room = Room(100)
    taken = 0
    while room.fits("job", 10):
        room.take("job", 10)
        taken += 10
    assert taken == 80
    assert room.fits("camera", 20) and not room.fits("camera", 21)
    room.take("camera", 20)
    assert not room.fits("another", 1)
    assert room.fits("job", 0), "nothing takes no room"


def test_one_item_at_a_time_may_be_larger_than_all_there_is():
    room = Room(10)
    assert room.fits("a", 50)
    room.take("a", 50)
    assert not room.fits("a", 1) and not room.fits("b", 1) and not room.fits("b", 50)
    room.give("a", 50)
    assert room.total == 0
    room.take("a", 1)
    assert room.fits("b", 50), "others that come one after the other do not keep it out"
    room.take("b", 50)
    assert not room.fits("c", 50)
    room.give("b", 50)
    assert room.fits("c", 50)


AMOUNTS = st.integers(1, 12)
EVENTS = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 4), AMOUNTS),
    st.tuples(st.just("units"), st.integers(0, 4), AMOUNTS),
    st.tuples(st.just("give"), st.integers(0, 4), st.integers(0, 9)),
)


@given(st.lists(EVENTS, max_size=80), st.integers(1, 40))
def test_capacity_is_never_exceeded_except_by_one_item_that_is_larger(events, capacity):
    room = Room(capacity)
    held: dict[int, list[int]] = {source: [] for source in range(5)}
    for kind, source, amount in events:
        own, total = sum(held[source]), sum(map(sum, held.values()))
        if kind == "give":
            if held[source]:
                room.give(source, held[source].pop(amount % len(held[source])))
            continue
        if kind == "units":
            units = room.units(source)
            assert 0 <= units <= max(0, capacity - total)
            if not own and total < capacity:
                assert units >= 1, "a source that holds nothing is let in"
            assert units == 0 or own + units <= max(1, 4 * (capacity - total - units))
            amount = min(amount, units)
            if not amount:
                continue
        elif not room.fits(source, amount):
            assert total, "an empty room takes anything"
            assert own or total + amount > capacity, "who holds nothing is let in"
            continue
        else:
            others = [one for amounts in held.values() for one in amounts]
            larger = amount > capacity and not any(one > capacity for one in others)
            alone = not total or larger
            assert alone or total + amount <= capacity
            # It holds no more than four times what is then free, unless it held nothing.
            assert alone or not own or own + amount <= 4 * (capacity - total - amount)
        room.take(source, amount)
        held[source].append(amount)
        assert room.total == sum(map(sum, held.values()))
    for source, amounts in held.items():
        for amount in amounts:
            room.give(source, amount)
    assert room.total == 0
    assert room.units("new") == max(1, 4 * capacity // 5)
