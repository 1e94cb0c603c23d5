"""Who waits for results: a job's stream, the future of an image, or a callback of many images."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from brimful.detections import Detections
from brimful.engine.delivery import Delivery, DetectionsFuture
from brimful.engine.request import Request
from brimful.engine.stream import ResultStream

OnDone = Callable[[int, "Detections | Exception"], object]
"""Told the position of an image and its result, or why the engine has none."""


@dataclass(slots=True, eq=False)
class StreamResponder:
    """The stream of a job; the number of a request is the stream's."""

    stream: ResultStream

    def wanted(self, request: Request) -> bool:
        """Tell whether the consumer is still there."""
        return not self.stream.closed

    def settle(self, requests: Sequence[Request], results: Sequence[Detections]) -> None:
        """Put the results into the stream."""
        self.stream.put_all([request.number for request in requests], results)

    def fail(self, requests: Sequence[Request], error: Exception) -> None:
        """Let the stream fail."""
        self.stream.fail(error)


@dataclass(slots=True, eq=False)
class FutureResponder:
    """The future of one image."""

    future: DetectionsFuture

    def wanted(self, request: Request) -> bool:
        """Tell whether the future was not cancelled."""
        return not self.future.cancelled()

    def settle(self, requests: Sequence[Request], results: Sequence[Detections]) -> None:
        """Set the result, unless the future was cancelled."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(results[0])

    def fail(self, requests: Sequence[Request], error: Exception) -> None:
        """Set the error, unless the future was cancelled."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class CallbackResponder:
    """The callback of images that were submitted together; numbers are their positions."""

    def __init__(self, on_done: OnDone, delivery: Delivery) -> None:
        """Keep whom to tell.

        Args:
            on_done: Told of each image, on the delivery thread.
            delivery: Runs it.
        """
        self._on_done = on_done
        self._delivery = delivery
        self._cancelled = False

    def cancel(self) -> None:
        """Want no more results: images whose batch has not started are not run."""
        self._cancelled = True

    def wanted(self, request: Request) -> bool:
        """Tell whether the images were not cancelled."""
        return not self._cancelled

    def settle(self, requests: Sequence[Request], results: Sequence[Detections]) -> None:
        """Have the callback told of each image."""
        for request, result in zip(requests, results, strict=True):
            self._tell(request, result)

    def fail(self, requests: Sequence[Request], error: Exception) -> None:
        """Have the callback told of each image why it has no result."""
        for request in requests:
            self._tell(request, error)

    def _tell(self, request: Request, outcome: Detections | Exception) -> None:
        if not self._cancelled:
            self._delivery.put(functools.partial(self._on_done, request.number, outcome))
