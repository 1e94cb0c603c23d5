"""CaptureGuard: keeps captures apart from what waits for a whole device.

While a stream is captured, nobody may wait for its device, in whatever thread and whatever the mode
of the capture: the one who waits gets an error, and the capture is invalid
(docs.nvidia.com/cuda/cuda-programming-guide, "CUDA Graphs", prohibited operations). NVDEC does so
when a video is opened or closed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from brimful.errors import RuntimeFailedError

PATIENCE_S = 2.0
"""For which a capture is put off at most. A video that has begun and brings no frame must not stop
an engine: a capture that is broken can be tried again."""


class CaptureGuard:
    """Captures are alone; what waits may be many at a time, and lets a capture go first."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        """Begin with nobody."""
        self._patience_s = patience_s
        self._changed = threading.Condition()
        self._waiting = 0
        self._wanted = 0
        self._captures: int | None = None

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Hold off all that waits for the device, once what has begun is done or patience ends."""
        with self._changed:
            self._wanted += 1
            try:
                self._changed.wait_for(lambda: not self._waiting, self._patience_s)
                self._changed.wait_for(lambda: self._captures is None)
            finally:
                self._wanted -= 1
                self._changed.notify_all()
            self._captures = threading.get_ident()
        try:
            yield
        finally:
            with self._changed:
                self._captures = None
                self._changed.notify_all()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Hold off captures while the block waits for the device. Blocks must not be nested.

        Raises:
            RuntimeFailedError: This thread captures.
        """
        with self._changed:
            if self._captures == threading.get_ident():
                raise RuntimeFailedError("what is captured must not wait for the device")
            self._changed.wait_for(lambda: not self._wanted and self._captures is None)
            self._waiting += 1
        try:
            yield
        finally:
            with self._changed:
                self._waiting -= 1
                self._changed.notify_all()


CAPTURES = CaptureGuard()
"""Of this process."""


def synchronize(device: Any) -> None:
    """Wait for a CUDA device, and make its context this thread's."""
    with CAPTURES.waiting():
        torch.cuda.synchronize(device)
