"""Whatever happens in whatever order, every request has exactly one outcome."""

from __future__ import annotations

from collections import Counter

from hypothesis import example, given
from hypothesis import strategies as st
from scheduler_kit import Play, World

from brimful.errors import EngineStoppedError

STEPS = st.one_of(
    st.tuples(
        st.just("admit"),
        st.integers(1, 6),
        st.sampled_from("abc"),
        st.sampled_from([64, 64, 32]),
        st.sampled_from([None, None, 3.0]),
        st.sampled_from(["fifo", "fifo", "newest"]),
        st.sampled_from([0, 7]),
    ),
    st.tuples(st.just("take"), st.integers(1, 5), st.integers(1, 3)),
    st.tuples(st.just("join"), st.integers(0, 3)),
    st.tuples(st.just("spoil"), st.integers(0, 9)),
    st.tuples(st.just("write"), st.integers(0, 3)),
    st.tuples(st.just("land"), st.integers(0, 3), st.booleans()),
    st.tuples(st.just("cancel"), st.integers(0, 99)),
    st.tuples(st.just("tick"), st.floats(0, 2)),
)


@example(
    [
        ("admit", 1, "a", 64, None, "fifo", 0),
        ("take", 1, 1),
        ("join", 0),
        ("spoil", 0),
    ],
    1,
    1,
    1,
    False,
)
@given(
    st.lists(STEPS, max_size=60),
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 2),
    st.booleans(),
)
def test_every_request_has_exactly_one_outcome(steps, slots, batch, concurrency, stopped):
    world = World(slots=slots, batch=batch, concurrency=concurrency, queue=20, queue_bytes=60)
    play = Play(world)
    for kind, *arguments in steps:
        getattr(play, kind)(*arguments)
        load = world.scheduler.load()
        assert load.live == len(play.admitted) - world.outcomes.total()
        assert load.slots <= slots and load.running <= concurrency + 1
        assert load.preparing == len(play.taken)
    if stopped:
        abandoned = world.scheduler.stop(EngineStoppedError("over"))
        world.outcomes.update(abandoned)
        assert world.scheduler.stop(EngineStoppedError("again")) is None
        assert world.scheduler.take(1) is None
    else:
        play.to_the_end()
        assert world.scheduler.load().slots == 0
    assert world.outcomes == Counter(play.admitted)
    load = world.scheduler.load()
    assert (load.live, load.waiting, load.preparing, load.batched) == (0, 0, 0, 0)
    assert load.nbytes == 0
