"""Gather: the frames of a video in lists, as long as they come quickly.

A list costs the interpreter hardly more than one image on its way to a batch, and the thread that
reads a video waits for the interpreter (benchmarks/NOTES.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

MOST = 8
"""Frames in a list at most."""

QUICK_S = 0.005
"""Seconds: a list that took longer to read is followed by a single frame."""


def gather(
    frames: Iterable[T], *, clock: Callable[[], float] = time.perf_counter
) -> Iterator[list[T]]:
    """Yield what is read in lists: each twice as long as the one before, if that came quickly.

    So a frame that comes slowly is handed on at once: none is waited for behind it.

    Args:
        frames: What is read, lazily.
        clock: Seconds.
    """
    room = 1
    gathered: list[T] = []
    begun = clock()
    try:
        for frame in frames:
            gathered.append(frame)
            if len(gathered) < room:
                continue
            room = min(MOST, 2 * room) if clock() - begun < QUICK_S else 1
            full, gathered = gathered, []
            yield full
            begun = clock()  # what is done with a list is not reading
    except Exception:
        if gathered:
            yield gathered  # they were read
        raise
    if gathered:
        yield gathered
