"""What follows a failed forward: every member gets its own chance, once.

A forward fails as a whole, but rarely because of all its images. Out of memory splits the batch
in halves until they fit; anything else runs the members singly. All of it happens in the slot of
the failed batch: when memory is short, a second one might not be had.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from brimful.errors import RuntimeFailedError
from brimful.runtimes.runtime import OutOfMemoryError, Outputs, Params, Runtime, Slot
from brimful.vision.geometry import Geometry


def retry(
    runtime: Runtime,
    slot: Slot,
    count: int,
    params: Params,
    error: BaseException,
    *,
    timeout_s: float,
) -> Iterator[tuple[range, Outputs | BaseException]]:
    """Run the members of a failed batch again, in smaller batches.

    Args:
        runtime: What failed.
        slot: The failed batch; its input is still intact, and is used up.
        count: Images in it.
        params: Of each image.
        error: What it failed with.
        timeout_s: A forward that takes longer counts as hung.

    Yields:
        The members of each smaller batch, and its outputs or its error. Outputs are valid until
        the next one is asked for.

    Raises:
        RuntimeFailedError: A forward hangs.
    """
    if count == 1 and isinstance(error, OutOfMemoryError):
        yield range(1), error  # nothing is smaller than one
        return
    split = (count + 1) // 2 if isinstance(error, OutOfMemoryError) else 1
    pending = [range(start, min(start + split, count)) for start in range(0, count, split)]
    while pending:
        part = pending.pop(0)
        # Parts go in order and none is longer than what lies before it, so this overwrites rows
        # of earlier parts only, which are settled.
        if part.start:
            slot.keep(part)
        own = None if params is None else params[part.start : part.stop]
        outcome = forward(runtime, slot, len(part), own, timeout_s=timeout_s)
        if isinstance(outcome, OutOfMemoryError) and len(part) > 1:
            middle = (part.start + part.stop + 1) // 2
            pending[:0] = [range(part.start, middle), range(middle, part.stop)]
        elif isinstance(outcome, BaseException) and len(part) > 1:
            pending[:0] = [range(member, member + 1) for member in part]
        else:
            yield part, outcome


def probe(
    runtime: Runtime, slot: Slot, geometry: Geometry, *, timeout_s: float
) -> BaseException | None:
    """Run a blank image, with which nothing can be wrong; return why that failed, or None.

    Args:
        runtime: What runs it.
        slot: A slot that is not needed any more; its images are overwritten.
        geometry: Of any image on the slot's canvas.
        timeout_s: A forward that takes longer counts as hung.

    Raises:
        RuntimeFailedError: The forward hangs.
    """
    slot.clear()
    slot.inputs[0] = 0
    slot.place(0, geometry)
    outcome = forward(runtime, slot, 1, None, timeout_s=timeout_s)
    return outcome if isinstance(outcome, BaseException) else None


def forward(
    runtime: Runtime, slot: Slot, count: int, params: Params, *, timeout_s: float
) -> Outputs | BaseException:
    """Run one forward and wait for it; return the outputs or the error.

    Raises:
        RuntimeFailedError: It hangs.
    """
    finished = threading.Event()
    outcome: list[Outputs | BaseException] = []

    def done(
        outputs: Outputs | None, error: BaseException | None, seconds: float | None = None
    ) -> None:
        if error is None and outputs is not None:
            outcome.append(outputs)
        else:
            outcome.append(error or RuntimeFailedError("the runtime returned no outputs"))
        finished.set()

    runtime.submit(slot, count, done, params)
    if not finished.wait(timeout_s):
        raise RuntimeFailedError(f"a forward did not end within stall_s={timeout_s:g} s")
    return outcome[0]
