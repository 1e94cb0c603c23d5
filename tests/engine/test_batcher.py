"""The batcher under a clock of plain numbers: which images run together, and when they go."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from brimful.engine.batcher import Batch, Batcher, FixedLimits
from brimful.engine.cost_model import CostModel
from brimful.errors import UsageError

SMALL, WIDE, FULL = (320, 320), (384, 640), (640, 640)


@dataclass(eq=False)
class Member:
    name: object
    source: str | None = None
    priority: int = 0
    deadline: float | None = None


def batcher(max_batch: int = 4, costs: CostModel | None = None, **limits) -> Batcher[Member]:
    return Batcher(FixedLimits(max_batch=max_batch, **limits), costs)


def join(b: Batcher, name, now: float = 0.0, canvas=FULL, written=True, **options) -> Batch:
    """Let a member join the open batch of its canvas, as the scheduler does."""
    batch = b.joinable(canvas) or b.open(canvas, now)
    b.join(batch, [Member(name, **options)], now)
    if written:
        batch.unwritten -= 1
    return batch


def members(batches) -> list[list]:
    return [[member.name for member in batch.members] for batch in batches]


@pytest.mark.parametrize("limits", [{"max_batch": 0}, {"max_delay_ms": -1}, {"max_pixels": 0}])
def test_impossible_limits_are_refused(limits):
    with pytest.raises(UsageError):
        FixedLimits(**{"max_batch": 4, **limits})


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
    assert [b.join(batch, [Member(name)], 0.0) for name in "abc"] == [0, 1, 2]


def test_a_canvas_has_one_open_batch_at_most():
    b = batcher()
    b.open(FULL, 0.0)
    with pytest.raises(ValueError, match="open batch"):
        b.open(FULL, 0.0)


def test_a_batch_holds_one_canvas():
    b = batcher()
    for name, canvas in [("a", FULL), ("b", WIDE), ("c", FULL), ("d", WIDE)]:
        join(b, name, canvas=canvas)
    going = b.due(0.0, idle=2, ahead=2)
    assert dict(zip([b.canvas for b in going], members(going), strict=True)) == {
        FULL: ["a", "c"],
        WIDE: ["b", "d"],
    }


def test_pixels_limit_a_batch_but_a_single_image_always_fits():
    limits = FixedLimits(max_batch=16, max_pixels=4 * 320 * 320)
    assert limits.limit(SMALL, 0.0).images == 4
    assert limits.limit(WIDE, 0.0).images == 1
    assert limits.limit(FULL, 0.0).images == 1
    assert FixedLimits(max_batch=3, max_pixels=10**9).limit(SMALL, 0.0).images == 3
    b = Batcher(limits)
    assert join(b, "a", canvas=FULL).full
    assert not join(b, "b", canvas=SMALL).full


def test_a_slot_may_hold_less_than_the_limit_but_never_more():
    b = batcher(max_batch=4)
    assert b.open(FULL, 0.0, 2).capacity == 2
    assert b.open(WIDE, 0.0, 9).capacity == 4


def test_the_delay_counts_from_the_first_image_not_from_the_slot():
    b = batcher(max_delay_ms=10)
    batch = b.open(FULL, now=0.0)
    assert b.next_due() is None, "an empty batch is never due"
    b.join(batch, [Member("a")], now=5.0)
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


def costs_of(seconds: float, canvas=FULL) -> CostModel:
    costs = CostModel()
    costs.observe(canvas, 1, seconds)
    costs.observe(canvas, 4, seconds)
    return costs


def test_a_deadline_makes_a_batch_overdue_in_time_for_its_forward():
    b = batcher(max_delay_ms=1000, costs=costs_of(0.2))
    join(b, "a", now=0.0)
    join(b, "b", now=0.0, deadline=0.5)
    join(b, "c", now=0.0, deadline=9.0)
    assert b.next_due() == pytest.approx(0.3)
    assert b.due(0.29, idle=0, ahead=1) == []
    assert members(b.due(0.31, idle=0, ahead=1)) == [["a", "b", "c"]]


def test_a_batch_starts_the_earlier_the_longer_its_own_forward_takes():
    costs = costs_of(0.1)
    costs.observe(WIDE, 1, 0.4)
    b = batcher(max_delay_ms=1e6, costs=costs)
    join(b, "full", canvas=FULL, deadline=1.0)
    assert b.next_due() == pytest.approx(0.9)
    join(b, "wide", canvas=WIDE, deadline=1.0)
    assert b.next_due() == pytest.approx(0.6)
    assert members(b.due(0.7, idle=0, ahead=2)) == [["wide"]]


def test_the_most_urgent_goes_first():
    b = batcher(max_delay_ms=100)
    join(b, "old", now=0.0, canvas=FULL)
    join(b, "urgent", now=0.05, canvas=WIDE, deadline=0.06)
    join(b, "young", now=0.09, canvas=SMALL)
    # A deadline presses one; the others go in the order of the moments they were due at.
    assert members(b.due(0.3, idle=0, ahead=1)) == [["urgent"]]
    assert members(b.due(0.3, idle=0, ahead=2)) == [["old"], ["young"]]


def test_a_higher_priority_goes_before_all_else():
    b = batcher(max_batch=2)
    for name in "ab":
        join(b, name, canvas=FULL, deadline=0.0)
    join(b, "low", now=0.1, canvas=WIDE)
    join(b, "high", now=0.1, canvas=WIDE, priority=1)
    join(b, "lowest", canvas=SMALL, priority=-1)
    assert members(b.due(1.0, idle=3, ahead=3)) == [["low", "high"], ["a", "b"], ["lowest"]]


def test_the_source_whose_last_launch_is_longest_ago_goes_first():
    b = batcher(max_batch=1, max_delay_ms=0)
    for number in range(4):
        join(b, f"job{number}", now=number / 10, source="job")
    order = members(b.due(1.0, idle=1, ahead=1))
    join(b, "camera", now=0.9, source="camera")
    join(b, "client", now=0.8, source="client")
    for _ in range(4):
        order += members(b.due(1.0, idle=1, ahead=1))
        if len(order) == 4:
            join(b, "camera again", now=0.95, source="camera")
    # "camera" launched longer ago than "job" when it came again.
    assert order == [["job0"], ["client"], ["camera"], ["job1"], ["camera again"]]


def test_a_batch_of_several_sources_goes_as_that_which_waited_longest():
    b = batcher(max_batch=2, max_delay_ms=0)
    join(b, "a0", source="a", canvas=SMALL)
    assert members(b.due(0.0, idle=1, ahead=1)) == [["a0"]]
    join(b, "b0", source="b", canvas=SMALL)
    assert members(b.due(0.0, idle=1, ahead=1)) == [["b0"]]
    join(b, "b1", source="b", now=1.0, canvas=FULL)
    join(b, "b2", source="b", now=2.0, canvas=WIDE)
    join(b, "a1", source="a", now=2.0, canvas=WIDE)
    assert members(b.due(3.0, idle=1, ahead=1)) == [["b2", "a1"]]


def test_a_source_that_is_forgotten_counts_as_new():
    b = batcher(max_batch=1, max_delay_ms=0)
    for source in "ab":
        join(b, source, source=source)
        b.due(0.0, idle=1, ahead=1)
    b.forget("b")
    b.forget("never seen")
    join(b, "a1", now=0.0, source="a")
    join(b, "b1", now=1.0, source="b")
    assert members(b.due(2.0, idle=1, ahead=1)) == [["b1"]]


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
    assert b.room == 1 + 1
    assert sorted(member.name for member in b.clear()) == ["a", "b", "c", "d"]
    assert b.room == 0
    assert len(b) == 0 and b.next_due() is None
    assert b.due(99.0, idle=9, ahead=9) == []


def test_the_canvas_that_ran_last_goes_on_until_another_is_overdue():
    b = batcher(max_batch=1, max_delay_ms=1000)
    for number, canvas in enumerate([WIDE, SMALL, WIDE, SMALL, WIDE]):
        join(b, number, now=number / 1000, canvas=canvas)
    order = []
    while going := b.due(0.01, idle=1, ahead=1):
        order += members(going)[0]
    assert order == [0, 2, 4, 1, 3]

    for number, canvas in enumerate([SMALL, WIDE, SMALL]):
        join(b, number, now=2 + number / 1000, canvas=canvas)
    # the first two are overdue, so they go in the order they came, whatever ran last
    assert members(b.due(3.0015, idle=1, ahead=1)) == [[0]]
    assert members(b.due(3.0015, idle=1, ahead=1)) == [[1]]


def test_more_than_there_is_room_for_cannot_join():
    b = batcher(max_batch=3)
    batch = b.open(FULL, 0.0)
    b.join(batch, [Member(1), Member(2)], 0.0)
    with pytest.raises(ValueError, match="2 images do not fit, only 1"):
        b.join(batch, [Member(3), Member(4)], 0.0)
    assert members([batch]) == [[1, 2]] and batch.unwritten == 2


def test_of_those_that_are_overdue_the_oldest_goes_whatever_canvas_ran_last():
    b = batcher(max_delay_ms=1000)
    join(b, "before", now=0.0, canvas=SMALL)
    assert members(b.due(0.0, idle=1, ahead=1)) == [["before"]]
    join(b, "old", now=0.1, canvas=WIDE)
    join(b, "young", now=0.2, canvas=SMALL)
    assert members(b.due(5.0, idle=1, ahead=1)) == [["old"]]
