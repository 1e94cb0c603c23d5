"""The interpreter of a process that runs one job and ends."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_off() -> Iterator[None]:
    """Keep the garbage collector off while libraries are imported, whose objects all stay.

    It would walk over them again and again: a seventh of the time that PyTorch's import takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def prepare_interpreter() -> None:
    """Keep the garbage collector off what is there to stay; call it once all is loaded.

    A job makes and drops a dozen small objects an image, and the collector would walk over every
    library again and again for them. What they leave in cycles is little: it is looked for less
    often, among what the job itself has made. What is garbage by now stays, too: to look for it
    takes a tenth of a second.
    """
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
