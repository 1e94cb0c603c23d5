"""The interpreter of a process that runs one job and ends."""

from __future__ import annotations

import gc


def prepare_interpreter() -> None:
    """Keep the garbage collector off what is there to stay; call it once all is loaded.

    A job makes and drops a dozen small objects an image, and the collector would walk over every
    library again and again for them. What they leave in cycles is little: it is looked for less
    often, among what the job itself has made.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 20)
