"""PoolRequest: one image that was submitted to a pool."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from brimful.cluster.packing import Packed
from brimful.detections import Detections, FailureKind, failed_detections
from brimful.engine.delivery import DetectionsFuture
from brimful.engine.request import LinePolicy
from brimful.spec import ModelSpec
from brimful.vision.heads.config import PostprocessConfig


def plain(params: PostprocessConfig) -> PostprocessConfig:
    """Return the same parameters of Python's own numbers: no caller's object is pickled."""
    classes = params.classes
    return replace(
        params,
        conf=float(params.conf),
        iou=float(params.iou),
        max_det=int(params.max_det),
        classes=None if classes is None else tuple(map(int, classes)),
    )


@dataclass(slots=True, eq=False)
class PoolRequest:
    """One image that was submitted. The dispatcher's lock guards it.

    Attributes:
        future: Of its result; its callbacks run on the delivery thread.
        item: The image, once it is packed.
        source: The client, for fairness; it stays in this process.
        client: What the processes know of the client: its hash.
        params: What becomes a detection, or None for the engines' setting.
        priority: Requests of a higher number go first.
        deadline: When its result is no longer wanted, on the clock of `time.monotonic`, which the
            processes share, or None.
        line: What the client's waiting line keeps.
        cost: What it counts when the queue shares turns between clients.
        crashes: Processes that crashed while they held it.
    """

    future: DetectionsFuture
    item: Packed
    source: Hashable = None
    client: int = 0
    params: PostprocessConfig | None = None
    priority: int = 0
    deadline: float | None = None
    line: LinePolicy = "fifo"
    cost: int = 1
    crashes: int = 0

    @property
    def suspect(self) -> bool:
        """Whether it was with a process that crashed."""
        return self.crashes > 0

    def settle(self, result: Detections) -> None:
        """Set the result, unless the future was cancelled. It has one outcome."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Set the error, unless the future was cancelled. It has one outcome."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def failed(self, spec: ModelSpec, kind: FailureKind, error: str) -> Detections:
        """Return the result of a request that has none."""
        index, key, frame, pts_ms, _ = self.item
        return failed_detections(spec, key, index, kind, error, frame=frame, pts_ms=pts_ms)
