"""The batcher under a clock of plain numbers: which images run together, and when they go."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from brimful.engine.batcher import Batch, Batcher, BatchPolicy
from brimful.errors import UsageError

SMALL, WIDE, FULL = (320, 320), (384, 640), (640, 640)


def batcher(max_batch: int = 4, **limits) -> Batcher[str]:
    return Batcher(BatchPolicy(max_batch=max_batch, **limits))


def join(
    b: Batcher, member, now: float = 0.0, canvas=FULL, deadline: float | None = None, written=True
) -> Batch:
    """Let a member join the open batch of its canvas, as the pipeline does."""
    batch = b.joinable(canvas) or b.open(canvas, now)
    b.join(batch, member, now, deadline)
    if written:
        batch.unwritten -= 1
    return batch


def members(batches) -> list[list]:
    return [batch.members for batch in batches]


@pytest.mark.parametrize("limits", [{"max_batch": 0}, {"max_delay_ms": -1}, {"max_pixels": 0}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(UsageError):
        BatchPolicy(**{"max_batch": 4, **limits})


def test_a_lone_image_on_an_idle_device_goes_at_once():
    b = batcher(max_delay_ms=1000)
    join(b, "a", now=5.0)
    assert members(b.due(5.0, idle=1, ahead=2)) == [["a"]]
    assert len(b) == 0
    assert b.due(99.0, idle=1, ahead=2) == []


def test_while_the_device_is_busy_images_gather_until_the_batch_is_full():
    b = batcher(max_batch=3, max_delay_ms=1000)
    for name in "ab":
        join(b, name)
        assert b.due(0.0, idle=0, ahead=1) == []
    join(b, "c")
    assert members(b.due(0.0, idle=0, ahead=1)) == [["a", "b", "c"]]


def test_what_gathered_goes_together_once_the_device_is_idle():
    b = batcher(max_batch=8, max_delay_ms=1000)
    for name in "abc":
        join(b, name)
    assert b.due(0.0, idle=0, ahead=1) == []
    assert members(b.due(0.0, idle=1, ahead=2)) == [["a", "b", "c"]]


def test_nothing_goes_when_the_device_takes_no_more():
    b = batcher(max_batch=1, max_delay_ms=0)
    join(b, "a")
    assert b.due(100.0, idle=0, ahead=0) == []
    assert len(b) == 1


def test_a_full_batch_makes_room_for_the_next_of_its_canvas():
    b = batcher(max_batch=2)
    first = [join(b, name) for name in "ab"]
    assert b.joinable(FULL) is None
    second = join(b, "c")
    assert second not in first
    assert members(b.due(0.0, idle=2, ahead=3)) == [["a", "b"], ["c"]]


def test_rows_count_up_from_zero():
    b = batcher(max_batch=3)
    batch = b.open(FULL, 0.0)
    assert [b.join(batch, name, 0.0) for name in "abc"] == [0, 1, 2]


def test_a_canvas_has_one_open_batch_at_most():
    b = batcher()
    b.open(FULL, 0.0)
    with pytest.raises(ValueError, match="open batch"):
        b.open(FULL, 0.0)


def test_a_batch_holds_one_canvas():
    b = batcher()
    for name, canvas in [("a", FULL), ("b", WIDE), ("c", FULL), ("d", WIDE)]:
        join(b, name, canvas=canvas)
    assert {b.canvas: b.members for b in b.due(0.0, idle=2, ahead=2)} == {
        FULL: ["a", "c"],
        WIDE: ["b", "d"],
    }


def test_pixels_limit_a_batch_but_a_single_image_always_fits():
    policy = BatchPolicy(max_batch=16, max_pixels=4 * 320 * 320)
    assert policy.capacity(SMALL) == 4
    assert policy.capacity(WIDE) == 1
    assert policy.capacity(FULL) == 1
    assert BatchPolicy(max_batch=3, max_pixels=10**9).capacity(SMALL) == 3
    b = Batcher(policy)
    assert join(b, "a", canvas=FULL).full
    assert not join(b, "b", canvas=SMALL).full


def test_a_slot_may_hold_less_than_the_policy_allows_but_never_more():
    b = batcher(max_batch=4)
    assert b.open(FULL, 0.0, 2).capacity == 2
    assert b.open(WIDE, 0.0, 9).capacity == 4


def test_the_delay_counts_from_the_first_image_not_from_the_slot():
    b = batcher(max_delay_ms=10)
    batch = b.open(FULL, now=0.0)
    assert b.next_due() is None, "an empty batch is never due"
    b.join(batch, "a", now=5.0)
    batch.unwritten = 0
    assert b.next_due() == pytest.approx(5.010)
    assert b.due(5.009, idle=0, ahead=1) == []
    join(b, "b", now=5.009)
    assert b.next_due() == pytest.approx(5.010), "a later image does not put it off"
    assert members(b.due(5.0101, idle=0, ahead=1)) == [["a", "b"]]


def test_an_empty_batch_never_goes():
    b = batcher(max_delay_ms=0)
    b.open(FULL, 0.0)
    assert b.due(100.0, idle=4, ahead=4) == []
    assert b.joinable(FULL) is not None


def test_a_deadline_makes_a_batch_overdue_in_time_for_its_forward():
    b = batcher(max_delay_ms=1000)
    b.observe(0.2)
    join(b, "a", now=0.0)
    join(b, "b", now=0.0, deadline=0.5)
    join(b, "c", now=0.0, deadline=9.0)
    assert b.next_due() == pytest.approx(0.3)
    assert b.due(0.29, idle=0, ahead=1) == []
    assert members(b.due(0.31, idle=0, ahead=1)) == [["a", "b", "c"]]


def test_the_forward_time_is_a_moving_average():
    b = batcher(max_delay_ms=1000)
    b.observe(0.1)
    b.observe(0.6)
    join(b, "a", deadline=1.0)
    assert b.next_due() == pytest.approx(1.0 - (0.8 * 0.1 + 0.2 * 0.6))


def test_the_most_urgent_goes_first():
    b = batcher(max_delay_ms=100)
    join(b, "old", now=0.0, canvas=FULL)
    join(b, "urgent", now=0.05, canvas=WIDE, deadline=0.06)
    join(b, "young", now=0.09, canvas=SMALL)
    # all are overdue, and one may go: the order is that of the moments they were due at
    assert members(b.due(0.3, idle=0, ahead=1)) == [["urgent"]]
    assert members(b.due(0.3, idle=0, ahead=2)) == [["old"], ["young"]]


def test_an_idle_device_gets_the_oldest_although_another_is_full():
    b = batcher(max_batch=2, max_delay_ms=1000)
    join(b, "old", now=0.0, canvas=FULL)
    for name in "ab":
        join(b, name, now=0.1, canvas=WIDE)
    assert members(b.due(0.1, idle=1, ahead=1)) == [["old"]]


def test_unwritten_batches_never_go():
    b = batcher(max_batch=2, max_delay_ms=0)
    batch = join(b, "a")
    join(b, "b", written=False)
    assert batch.full
    assert b.due(100.0, idle=2, ahead=4) == []
    batch.unwritten -= 1
    assert members(b.due(100.0, idle=0, ahead=1)) == [["a", "b"]]


def test_an_unwritten_batch_does_not_hold_up_others():
    b = batcher(max_delay_ms=0)
    join(b, "slow", now=0.0, canvas=FULL, written=False)
    join(b, "quick", now=1.0, canvas=WIDE)
    assert members(b.due(2.0, idle=1, ahead=1)) == [["quick"]]


def test_clear_returns_everyone_who_waited():
    b = batcher(max_batch=2)
    for name in "abc":
        join(b, name)
    join(b, "d", canvas=WIDE, written=False)
    assert sorted(b.clear()) == ["a", "b", "c", "d"]
    assert len(b) == 0 and b.next_due() is None
    assert b.due(99.0, idle=9, ahead=9) == []


STEPS = st.one_of(
    st.tuples(
        st.just("join"),
        st.sampled_from([SMALL, WIDE, FULL]),
        st.one_of(st.none(), st.floats(0, 50)),
    ),
    st.tuples(st.just("write"), st.integers(0, 3), st.none()),
    st.tuples(st.just("tick"), st.floats(0, 5), st.none()),
    st.tuples(st.just("due"), st.integers(0, 2), st.integers(0, 2)),
)


@example(  # the canvas that ran last goes before one that is due sooner
    steps=[
        *(("join", WIDE, None), ("write", 0, None), ("join", WIDE, None), ("write", 0, None)),
        *(("due", 0, 1), ("join", SMALL, 0.5), ("write", 0, None), ("due", 0, 2)),
    ],
    max_batch=1,
    max_delay_ms=1000.0,
    max_pixels=None,
)
@given(
    steps=st.lists(STEPS, max_size=80),
    max_batch=st.integers(1, 5),
    max_delay_ms=st.sampled_from([0.0, 1000.0, 5000.0]),
    max_pixels=st.sampled_from([None, 1, 2 * 384 * 640, 10**7]),
)
def test_whatever_happens_every_image_goes_exactly_once(steps, max_batch, max_delay_ms, max_pixels):
    policy = BatchPolicy(max_batch=max_batch, max_delay_ms=max_delay_ms, max_pixels=max_pixels)
    b: Batcher = Batcher(policy)
    now, joined = 0.0, []
    writing: list[Batch] = []
    gone: list[Batch] = []

    def take(idle: int, ahead: int) -> None:
        going = b.due(now, idle=idle, ahead=ahead)
        assert len(going) <= ahead
        for batch in going:
            assert batch.members and not batch.unwritten
            assert len(batch.members) <= batch.capacity <= policy.capacity(batch.canvas)
            assert {canvas for _, canvas in batch.members} == {batch.canvas}
        # What is overdue goes first; then the canvas that ran last, then what is due first.
        last = gone[-1].canvas if gone else None
        for i, batch in enumerate(going):
            rest = going[i:]
            first = [other for other in rest if b._overdue_at(other) <= now]
            first = first or [other for other in rest if other.canvas == last] or rest
            assert batch in first
            assert b._overdue_at(batch) == min(map(b._overdue_at, first))
            last = batch.canvas
        gone.extend(going)

    for kind, first, second in steps:
        if kind == "join":
            member = (len(joined), first)
            deadline = None if second is None else now + second
            writing.append(join(b, member, now, first, deadline, written=False))
            joined.append(member)
        elif kind == "write" and writing:
            writing.pop(first % len(writing)).unwritten -= 1
        elif kind == "tick":
            now += first
        elif kind == "due":
            take(first, first + second)
        assert len(b) + sum(len(batch.members) for batch in gone) == len(joined)
    for batch in writing:
        batch.unwritten -= 1
    while len(b):
        before = len(b)
        take(1, 1)
        assert len(b) < before, "an idle device takes whatever waits"
    went = [member for batch in gone for member in batch.members]
    assert sorted(went) == joined
    for batch in gone:
        assert batch.members == sorted(batch.members), "rows are in the order of joining"


def test_the_canvas_that_ran_last_goes_on_until_another_is_overdue():
    b = batcher(max_batch=1, max_delay_ms=1000)
    for number, canvas in enumerate([WIDE, SMALL, WIDE, SMALL, WIDE]):
        join(b, number, now=number / 1000, canvas=canvas)
    order = []
    while going := b.due(0.01, idle=1, ahead=1):
        order += going[0].members
    assert order == [0, 2, 4, 1, 3]

    for number, canvas in enumerate([SMALL, WIDE, SMALL]):
        join(b, number, now=2 + number / 1000, canvas=canvas)
    # the first two are overdue, so they go in the order they came, whatever ran last
    assert members(b.due(3.0015, idle=1, ahead=1)) == [[0]]
    assert members(b.due(3.0015, idle=1, ahead=1)) == [[1]]
