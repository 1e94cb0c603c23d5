"""ForwardSequencer: the forwards of several lanes one after the other, in memory that they share.

Side by side they slow each other down and end together: the device then has nothing to do until the
host has launched the next ones, all at once. In turn, one follows the other without a gap, while
what they are decoded by runs beside them (benchmarks/NOTES.md).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from brimful.cuda.graphs import new_pool
from brimful.cuda.streams import give_stream, take_stream


class ForwardSequencer:
    """The order in which forwards run on a device, and what their graphs are captured with.

    Attributes:
        stream: To capture on: PyTorch gives memory only to the stream that it was taken on before.
        capturing: Held while something is captured there.
        pool: Of the memory to capture with. A graph may overwrite what another one's forward left
            there, once that one's turn is over.
    """

    def __init__(self, device: Any) -> None:
        """Begin with nobody's turn.

        Args:
            device: CUDA device, the current one.
        """
        self.stream: Any = take_stream(device)
        self.capturing = threading.Lock()
        self.pool: Any = new_pool()
        self._lock = threading.Lock()
        self._last: Any = None

    @contextmanager
    def next(self, stream: Any, finished: Any, begun: Any = None) -> Iterator[None]:
        """Queue what the block queues on a stream behind the turns before it.

        Args:
            stream: The current one.
            finished: An event of this stream, recorded behind what the block has queued. It must
                not be recorded elsewhere.
            begun: Another one, recorded before it and behind those turns.
        """
        with self._lock:
            if self._last is not None:
                self._last.wait(stream)
            if begun is not None:
                begun.record(stream)
            try:
                yield
            finally:  # what was queued before an error runs all the same
                finished.record(stream)
                self._last = finished

    def close(self) -> None:
        """Give stream and memory back; nothing may run on it."""
        self.pool = None  # goes with the last graph
        give_stream(self.stream)
