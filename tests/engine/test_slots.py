"""The slot pool: reuse by canvas, and never more slots than allowed."""

from __future__ import annotations

import gc
import random
import weakref

from hypothesis import given
from hypothesis import strategies as st

from brimful.engine.slots import SlotPool
from brimful.runtimes.debug import DebugRuntime, DebugSlot


class Allocator:
    """Allocates like the debug runtime, and knows which slots exist."""

    def __init__(self) -> None:
        self.allocated = 0
        self._inputs: list[weakref.ref] = []

    def allocate(self, canvas, *, capacity=None) -> DebugSlot:
        slot = DebugRuntime.allocate(self, canvas, capacity=capacity)
        self.allocated += 1
        self._inputs.append(weakref.ref(slot.inputs))
        return slot

    spec, input_format = DebugRuntime().spec, DebugRuntime.input_format

    def existing(self) -> int:
        return sum(1 for reference in self._inputs if reference() is not None)


def get(pool: SlotPool, canvas, capacity: int = 2):
    slot = pool.reuse(canvas, capacity)
    if slot is None and pool.reserve():
        slot = pool.allocate(canvas, capacity)
    return slot


def test_a_released_slot_is_used_again_for_its_canvas_only():
    runtime = Allocator()
    pool = SlotPool(runtime, 2)
    first = get(pool, (64, 64))
    pool.release(first)
    assert get(pool, (64, 64)) is first
    assert get(pool, (32, 64)) is not first
    assert runtime.allocated == 2


def test_a_slot_that_holds_too_few_is_not_used():
    pool = SlotPool(Allocator(), 3)
    small = get(pool, (64, 64), capacity=1)
    pool.release(small)
    assert get(pool, (64, 64), capacity=2) is not small


def test_there_is_none_while_all_are_busy():
    pool = SlotPool(Allocator(), 2)
    slots = [get(pool, (64, 64)), get(pool, (32, 32))]
    assert pool.reuse((64, 64), 2) is None
    assert not pool.reserve()
    assert (pool.busy, pool.left) == (2, 0)
    pool.release(slots[1])
    assert (pool.busy, pool.left) == (1, 1)
    assert pool.reuse((64, 64), 2) is None, "the free one is of another canvas"
    assert pool.reserve(), "it makes room for another canvas"
    assert not pool.reserve()


def test_a_failed_allocation_gives_its_place_back():
    pool = SlotPool(Allocator(), 1)
    assert pool.reserve()
    assert not pool.reserve()
    pool.release(None)
    assert pool.reuse((64, 64), 2) is None, "there is no slot"
    assert pool.reserve()


def test_the_slot_used_longest_ago_makes_room():
    runtime = Allocator()
    pool = SlotPool(runtime, 3)
    canvases = [(32, 32), (64, 64), (96, 96)]
    for slot in [get(pool, canvas) for canvas in canvases]:
        pool.release(slot)
    pool.release(get(pool, (32, 32)))  # now the one used last
    pool.release(get(pool, (128, 128)))
    before = runtime.allocated
    pool.release(get(pool, (32, 32)))
    assert runtime.allocated == before
    get(pool, (64, 64))
    assert runtime.allocated == before + 1


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_fifty_canvases_never_need_more_slots_than_allowed(limit, seed):
    random_ = random.Random(seed)
    runtime = Allocator()
    pool = SlotPool(runtime, limit)
    canvases = [(32 * (1 + i % 5), 32 * (1 + i // 5)) for i in range(50)]
    held: list = []
    for _ in range(150):
        if held and random_.random() < 0.5:
            pool.release(held.pop(random_.randrange(len(held))))
            continue
        canvas = random_.choice(canvases)
        slot = get(pool, canvas)
        assert (slot is None) == (len(held) == limit)
        if slot is not None:
            assert slot.canvas == canvas
            assert all(slot is not other for other in held)
            held.append(slot)
        del slot
        assert (pool.busy, pool.left) == (len(held), limit - len(held))
    gc.collect(0)
    assert runtime.existing() <= limit
    held.clear()
    pool.clear()
    assert runtime.existing() == 0
