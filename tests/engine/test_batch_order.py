"""Every batch goes once and in the right order, whatever joins and whenever the device asks.

The order is told from what joined, from the rules in the batcher's docstrings, and from nothing
that the batcher computes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from brimful.engine.batcher import Batch, Batcher, FixedLimits
from brimful.spec import Size

SMALL, WIDE, FULL = (320, 320), (384, 640), (640, 640)


@dataclass(eq=False)
class Member:
    number: int
    canvas: Size
    source: str = "a"
    priority: int = 0
    deadline: float | None = None


class Costs:
    """A forward takes 0.1 s and 0.25 s for each image."""

    def forward_s(self, canvas: Size, images: int, *, quantile: float = 0.5) -> float:
        return 0.1 + 0.25 * images


@dataclass(eq=False)
class Expected:
    """What the test knows of a batch."""

    batch: Batch
    opened: float
    capacity: int
    delay_s: float
    members: list[Member] = field(default_factory=list)

    def starts_too_late_after(self) -> float:
        deadlines = [m.deadline for m in self.members if m.deadline is not None]
        seconds = Costs().forward_s(self.batch.canvas, len(self.members))
        return min(deadlines, default=float("inf")) - seconds

    def due_at(self) -> float:
        return min(self.opened + self.delay_s, self.starts_too_late_after())


class World:
    """A batcher, and what must hold of it."""

    def __init__(self, limits: FixedLimits) -> None:
        self.limits = limits
        self.batcher: Batcher[Member] = Batcher(limits, Costs())  # type: ignore[arg-type]
        self.now = 0.0
        self.joined: list[Member] = []
        self.gone: list[Member] = []
        self.waiting: list[Expected] = []
        self.writing: list[Batch] = []
        self.launches: list[set[str]] = []
        self.last_canvas: Size | None = None

    def join(self, member: Member) -> None:
        batch = self.batcher.joinable(member.canvas)
        if batch is None:
            batch = self.batcher.open(member.canvas, self.now)
            allowed = self.limits.max_batch
            if self.limits.max_pixels is not None:
                pixels = member.canvas[0] * member.canvas[1]
                allowed = max(1, min(allowed, self.limits.max_pixels // pixels))
            delay_s = self.limits.max_delay_ms / 1000
            self.waiting.append(Expected(batch, self.now, allowed, delay_s))
        known = next(e for e in self.waiting if e.batch is batch)
        assert self.batcher.join(batch, [member], self.now) == len(known.members)
        known.members.append(member)
        self.joined.append(member)
        self.writing.append(batch)

    def write(self, number: int) -> None:
        self.writing.pop(number % len(self.writing)).unwritten -= 1

    def last_launch(self, source: str) -> int:
        """Return the number of the last launch of a source; 0 when it had none."""
        numbers = [i for i, sources in enumerate(self.launches, 1) if source in sources]
        return max(numbers, default=0)

    def may_go(self, batch: Expected, *, idle: bool) -> bool:
        full = len(batch.members) == batch.capacity
        return idle or full or self.now >= batch.due_at()

    def first(self, batches: list[Expected]) -> list[Expected]:
        """Return the batches of which one has to go before all others."""

        def those(condition) -> list[Expected]:
            return [batch for batch in batches if condition(batch)] or batches

        def least(key) -> list[Expected]:
            smallest = min(map(key, batches))
            return [batch for batch in batches if key(batch) == smallest]

        batches = least(lambda e: -max(m.priority for m in e.members))
        batches = those(lambda e: self.now >= e.starts_too_late_after())
        batches = least(lambda e: min(self.last_launch(m.source) for m in e.members))
        overdue = [e for e in batches if self.now >= e.due_at()]
        batches = overdue or those(lambda e: e.batch.canvas == self.last_canvas)
        return least(lambda e: e.due_at())

    def due(self, idle: int, ahead: int) -> None:
        unwritten = {id(batch) for batch in self.writing}
        ready = [e for e in self.waiting if e.members and id(e.batch) not in unwritten]
        going = self.batcher.due(self.now, idle=idle, ahead=ahead)
        assert len(going) <= ahead
        for number, batch in enumerate(going):
            able = [e for e in ready if self.may_go(e, idle=number < idle)]
            expected = [e for e in self.first(able) if e.batch is batch]
            assert expected, "another one had to go first"
            (chosen,) = expected
            assert batch.members == chosen.members, "rows are in the order of joining"
            assert {m.canvas for m in batch.members} == {batch.canvas}
            assert len(batch.members) <= chosen.capacity
            ready.remove(chosen)
            self.waiting.remove(chosen)
            self.gone += batch.members
            self.launches.append({m.source for m in batch.members})
            self.last_canvas = batch.canvas
        if len(going) < ahead:
            left = [e for e in ready if self.may_go(e, idle=len(going) < idle)]
            assert not left, "the device takes more, and these may go"
        dues = [e.due_at() for e in self.waiting if 0 < len(e.members) < e.capacity]
        assert self.batcher.next_due() == (min(dues) if dues else None)


JOIN = st.tuples(
    st.just("join"),
    st.sampled_from([SMALL, WIDE, FULL]),
    st.sampled_from("abc"),
    st.sampled_from([0, 0, 0, 1, -1]),
    st.one_of(st.none(), st.floats(0, 10)),
)
STEPS = st.one_of(
    JOIN,
    JOIN,
    st.tuples(st.just("write"), st.integers(0, 3)),
    st.tuples(st.just("write all")),
    st.tuples(st.just("tick"), st.floats(0, 5)),
    st.tuples(st.just("due"), st.integers(0, 2), st.integers(0, 2)),
)


@example(  # the canvas that ran last goes before one that is due sooner
    steps=[
        *(("join", WIDE, "a", 0, None), ("join", WIDE, "a", 0, None), ("write all",)),
        *(("due", 0, 1), ("join", SMALL, "a", 0, 5.0), ("write all",), ("due", 0, 2)),
    ],
    max_batch=1,
    max_delay_ms=10000.0,
    max_pixels=None,
)
@given(
    steps=st.lists(STEPS, max_size=80),
    max_batch=st.integers(1, 5),
    max_delay_ms=st.sampled_from([0.0, 1000.0, 5000.0]),
    max_pixels=st.sampled_from([None, 1, 2 * 384 * 640, 10**7]),
)
def test_whatever_happens_every_image_goes_exactly_once_and_in_order(
    steps, max_batch, max_delay_ms, max_pixels
):
    world = World(
        FixedLimits(max_batch=max_batch, max_delay_ms=max_delay_ms, max_pixels=max_pixels)
    )
    for kind, *arguments in steps:
        if kind == "join":
            canvas, source, priority, wait = arguments
            deadline = None if wait is None else world.now + wait
            world.join(Member(len(world.joined), canvas, source, priority, deadline))
        elif kind == "write" and world.writing:
            world.write(*arguments)
        elif kind == "write all":
            while world.writing:
                world.write(0)
        elif kind == "tick":
            world.now += arguments[0]
        elif kind == "due":
            idle, more = arguments
            world.due(idle, idle + more)
        assert len(world.batcher) + len(world.gone) == len(world.joined)
    while world.writing:
        world.write(0)
    while len(world.batcher):
        before = len(world.batcher)
        world.due(1, 1)
        assert len(world.batcher) < before, "an idle device takes whatever waits"
    assert sorted(m.number for m in world.gone) == list(range(len(world.joined)))


@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.sampled_from([None, 5.0, 9.0])),
            min_size=1,
            max_size=5,
        ),
        max_size=8,
    ),
    st.integers(1, 9),
)
def test_joining_together_is_joining_one_by_one(parts, max_batch):
    together, alone = (Batcher(FixedLimits(max_batch=max_batch)) for _ in range(2))
    for now, part in enumerate(parts):
        members = [Member(i, (32, 32), *facts) for i, facts in enumerate(part)]
        while members:
            batch = together.joinable((32, 32)) or together.open((32, 32), now)
            entering, members = members[: batch.room], members[batch.room :]
            position = together.join(batch, entering, now)
            for i, member in enumerate(entering):
                other = alone.joinable((32, 32)) or alone.open((32, 32), now)
                assert alone.join(other, [member], now) == position + i
    assert list(map(facts_of, together.waiting())) == list(map(facts_of, alone.waiting()))


def facts_of(batch: Batch) -> tuple:
    return (
        list(batch.members),
        batch.opened,
        batch.deadline,
        batch.priority,
        batch.sources,
        batch.unwritten,
        batch.full,
    )
