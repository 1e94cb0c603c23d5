"""A few threads that run blocking forwards, for runtimes without an asynchronous call."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from brimful.runtimes.runtime import Done, Outputs


class ForwardWorkers:
    """Threads that run one forward each at a time and tell the result."""

    def __init__(self, count: int, *, name: str) -> None:
        """Start `count` threads."""
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Outputs], Done] | None] = (
            queue.SimpleQueue()
        )
        self._threads = [
            threading.Thread(target=self._run, name=f"brimful-{name}-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, forward: Callable[[], Outputs], done: Done) -> None:
        """Run `forward` on one of the threads and pass what it returns or raises to `done`."""
        self._jobs.put((forward, done))

    def close(self) -> None:
        """Stop the threads once they have run what was submitted."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=5)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            forward, done = job
            started = time.perf_counter()
            try:
                outputs = forward()
            except BaseException as error:
                done(None, error)
            else:
                done(outputs, None, time.perf_counter() - started)
            del job, forward, done  # an idle thread keeps nothing alive
