"""announced: a word to the user when something takes long, and how long it took."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 1.0
"""What takes less is not worth a word."""

_log = logging.getLogger("brimful")


@contextmanager
def log_slow(doing: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """Log what is being done once it has lasted, and at its end how long it took.

    Args:
        doing: Such as `compiling 57 kernels for NVIDIA H200, once; they are kept`.
        patience_s: Seconds before the first word; what is done sooner goes without any.
    """
    started = time.perf_counter()
    said = threading.Event()

    def say() -> None:
        said.set()
        _log.info("%s ...", doing)

    timer = threading.Timer(patience_s, say)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # its word comes before the last one, or not at all
    if said.is_set():
        _log.info("%s: done in %.1f s", doing.partition(",")[0], time.perf_counter() - started)
