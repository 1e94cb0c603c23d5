"""Turns: the forwards of several lanes one after the other, in memory that they share.

Side by side they slow each other down and end together: the device then has nothing to do until the
host has launched the next ones, all at once. In turn, one follows the other without a gap, while
what they are decoded by runs beside them (benchmarks/NOTES.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from brimful.runtimes.cuda.streams import give_stream, take_stream


class Turns:
    """The order in which forwards run on a device, and what their graphs are captured with.

    Attributes:
        stream: To capture on: PyTorch gives memory only to the stream that it was taken on before.
        capturing: Held while something is captured there.
        pool: Handle of the memory to capture with. A graph may overwrite what another one's
            forward left there, once that one's turn is over.
    """

    def __init__(self, device: Any) -> None:
        """Begin with nobody's turn.

        Args:
            device: CUDA device, the current one.
        """
        self.stream: Any = take_stream(device)
        self.capturing = threading.Lock()
        self.pool: Any = torch.cuda.graph_pool_handle()
        self._values = 0
        self._lock = threading.Lock()
        self._last: Any = None

    def reserve(self, values: int) -> None:
        """Give graphs of larger inputs memory of their own: the old one goes with its last graph.

        Args:
            values: Of the largest input from now on.
        """
        if values > self._values:
            self._values = values
            self.pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def next(self, stream: Any, finished: Any) -> Iterator[None]:
        """Queue what the block queues on a stream behind the turns before it.

        Args:
            stream: The current one.
            finished: An event of this stream, recorded behind what the block has queued. It must
                not be recorded elsewhere.
        """
        with self._lock:
            if self._last is not None:
                stream.wait_event(self._last)
            try:
                yield
            finally:  # what was queued before an error runs all the same
                finished.record(stream)
                self._last = finished

    def close(self) -> None:
        """Give the stream back; nothing may run on it."""
        give_stream(self.stream)
