"""What a process that runs a job sets up: quiet libraries, and a voice of its own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from brimful.engine.engine import Engine


def prepare_streams() -> None:
    """Put the null device in the place of standard streams that are closed.

    Otherwise the next file that is opened, such as a journal, has the number of one of them, and
    what a library prints goes there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def quiet_libraries() -> None:
    """Keep OpenCV to one thread a call, and from complaining: bad files get rows that say why.

    The engine's workers are the parallelism.
    """
    import cv2

    cv2.setNumThreads(1)
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class _StderrHandler(logging.Handler):
    """Writes to what standard error is by then: a progress bar takes it over."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; nobody reading it is no reason to stop a job."""
        with suppress(OSError):
            print(record.getMessage(), file=sys.stderr, flush=True)


def tell_user() -> None:
    """Let the user read on standard error what this process has to say of long preparations."""
    logger = logging.getLogger("brimful")
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False


def start_quietly(
    start: Callable[..., Engine],
    *,
    quiet: bool,
    device: str,
    threads: int | None,
    workers: int | None,
) -> Engine:
    """Start an engine, and keep the libraries of its process quiet."""
    quiet_libraries()
    if not quiet:
        tell_user()
    return start(device=device, threads=threads, workers=workers)
