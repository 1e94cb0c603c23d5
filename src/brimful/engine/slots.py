"""Slot pool: the preallocated buffers that batches live in.

A free slot is the permission to go on. Slots are kept for reuse by canvas; when every slot is
allocated and another canvas needs one, the idle slot that was used longest ago makes room.
"""

from __future__ import annotations

from collections import OrderedDict

from brimful.runtimes.runtime import Runtime, Slot
from brimful.spec import Size


class SlotPool:
    """Slots of one runtime. The scheduler's lock guards it, except for `allocate`."""

    def __init__(self, runtime: Runtime, limit: int) -> None:
        """Start without slots.

        Args:
            runtime: Allocates them.
            limit: Slots that may exist at once, free or busy.
        """
        self.limit = limit
        self._runtime = runtime
        self._free: OrderedDict[int, Slot] = OrderedDict()
        self._busy = 0

    @property
    def busy(self) -> int:
        """Slots in use, including those being allocated."""
        return self._busy

    @property
    def left(self) -> int:
        """Slots that are free or may still be allocated."""
        return self.limit - self._busy

    def reuse(self, canvas: Size, capacity: int) -> Slot | None:
        """Take a free slot of a canvas, if there is one."""
        for key, slot in reversed(self._free.items()):
            if slot.canvas == canvas and slot.capacity >= capacity:
                del self._free[key]
                self._busy += 1
                return slot
        return None

    def reserve(self) -> bool:
        """Reserve a slot that the caller must `allocate`; return False when all are in use.

        Allocation may compile for seconds, and is done without the scheduler's lock.
        """
        if self._busy >= self.limit:
            return False
        if self._busy + len(self._free) >= self.limit:
            self._free.popitem(last=False)
        self._busy += 1
        return True

    def allocate(self, canvas: Size, capacity: int) -> Slot:
        """Allocate the slot that was reserved."""
        return self._runtime.allocate(canvas, capacity=capacity)

    def release(self, slot: Slot | None) -> None:
        """Give a slot back; None gives back a reservation whose allocation failed."""
        self._busy -= 1
        if slot is not None:
            self._free[id(slot)] = slot

    def clear(self) -> None:
        """Drop every free slot."""
        self._free.clear()
