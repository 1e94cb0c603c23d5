"""Request: one image on its way through the engine, and whoever waits for its result."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, Protocol

from brimful.detections import Detections, FailureKind, failed_detections
from brimful.engine.batcher import Batch
from brimful.sources.image import SourceImage
from brimful.spec import ModelSpec
from brimful.vision.geometry import Geometry
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.postprocess import Placed

LinePolicy = Literal["fifo", "newest"]
"""What a source's waiting line keeps: every image in order, or only the newest one."""


class State(IntEnum):
    """How far a request has come. `DONE` is reached once, whatever the outcome."""

    WAITING = 0  # in the queue
    TAKEN = 1  # a worker decodes it
    JOINED = 2  # it has a row in a batch, which `batch.launched` tells more of
    DONE = 3  # its outcome is decided


@dataclass(frozen=True, slots=True)
class StageTimes:
    """When a request reached each stage, in seconds on the engine's clock; None if it never did.

    Attributes:
        arrived: It was admitted.
        taken: A worker began to decode it.
        launched: Its batch was submitted to the device.
        landed: Its batch's forward ended.
        settled: Its outcome was decided.
    """

    arrived: float
    taken: float | None
    launched: float | None
    landed: float | None
    settled: float | None


class Responder(Protocol):
    """Whoever waits for results.

    The methods run on the engine's own threads: they must neither block nor run a caller's code.
    """

    def wanted(self, request: Request) -> bool:
        """Tell whether anybody still wants the result of a request, as of all of its requests."""
        ...

    def settle(self, requests: Sequence[Request], results: Sequence[Detections]) -> None:
        """Take the results of some of its requests (with `failure` set for those that failed)."""
        ...

    def fail(self, requests: Sequence[Request], error: Exception) -> None:
        """Take note that some of its requests will have no result: the engine stopped."""
        ...


@dataclass(slots=True, eq=False)
class Request:
    """One image on its way.

    Attributes:
        image: What to decode.
        responder: Told the outcome.
        source: Whom the image comes from, for fairness: a job, a camera, a client.
        number: The responder's own number of it.
        params: What becomes a detection, if that differs from the engine's own setting.
        priority: Requests of a higher number go first.
        deadline: When its result is no longer wanted, on the engine's clock, or None.
        line: What its source's waiting line keeps.
        cost: Canvas pixels: the full canvas's until the image is placed, then its own canvas's.
        nbytes: Bytes of memory that the image holds until its outcome is decided.
        state: How far it has come; the scheduler's lock guards it.
        geometry: Where it lies on its canvas, once that is known.
        batch: What it joined, if it has.
        arrived: When it was admitted.
        taken: When a worker began to decode it, if one has.
        settled: When its outcome was decided, if it was.
    """

    image: SourceImage
    responder: Responder
    source: Hashable = None
    number: int = 0
    params: PostprocessConfig | None = None
    priority: int = 0
    deadline: float | None = None
    line: LinePolicy = "fifo"
    cost: int = 0
    nbytes: int = 0
    state: State = State.WAITING
    geometry: Geometry | None = None
    batch: Batch[Request] | None = None
    arrived: float = 0.0
    taken: float | None = None
    settled: float | None = None

    @property
    def times(self) -> StageTimes:
        """When it reached each stage."""
        batch = self.batch
        return StageTimes(
            self.arrived,
            self.taken,
            None if batch is None else batch.launched,
            None if batch is None else batch.landed,
            self.settled,
        )

    def placed(self) -> Placed:
        """Return what postprocess needs to know; the geometry must be known."""
        assert self.geometry is not None
        image = self.image
        return Placed(image.key, image.index, image.frame, image.pts_ms, self.geometry)

    def failed(self, spec: ModelSpec, kind: FailureKind, error: str) -> Detections:
        """Return the result of a request that has none."""
        if self.geometry is not None:
            return self.placed().failed(spec, error, kind)
        image = self.image
        return failed_detections(
            spec,
            image.key,
            image.index,
            kind,
            error,
            frame=image.frame,
            pts_ms=image.pts_ms,
        )
