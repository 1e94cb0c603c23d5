"""Delivery: the thread that runs callers' callbacks, so that no engine thread does."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from brimful.detections import Detections

_log = logging.getLogger("brimful")


class Delivery:
    """Runs callbacks one after the other on a thread of its own, started with the first one.

    A callback that is slow delays other callbacks and nothing else. One that raises, whatever it
    raises, is logged.
    """

    def __init__(self) -> None:
        """Start without a thread."""
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def put(self, call: Callable[[], object]) -> None:
        """Have a callback run soon; after `close`, on a thread that ends with it."""
        with self._lock:
            self._calls.put(call)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="brimful-delivery", daemon=True)
                if self._closed:
                    self._calls.put(None)
                else:
                    self._thread = thread
                thread.start()

    def close(self, timeout: float) -> None:
        """Run what was put, then end the thread; waits for it unless called from it."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
            self._calls.put(None)
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            _call(call)
            del call  # an idle thread keeps nothing alive


def _call(call: Callable[[], object]) -> None:
    try:
        call()
    except BaseException:
        _log.exception("a callback of a result raised")


class DetectionsFuture(Future[Detections]):
    """A future whose callbacks run on the delivery thread, whoever sets its result."""

    def __init__(self, delivery: Delivery) -> None:
        """Start pending.

        Args:
            delivery: Runs the callbacks.
        """
        super().__init__()
        self._delivery = delivery

    def add_done_callback(self, fn: Callable[[Future[Detections]], object]) -> None:
        """Have `fn` called with the future when it is done, on the delivery thread."""
        super().add_done_callback(lambda future: self._delivery.put(lambda: fn(future)))
