"""Placed: an image on its canvas, as far as its result needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from brimful.detections import Detections, FailureKind, failed_detections
from brimful.spec import ModelSpec
from brimful.vision.geometry import Geometry


@dataclass(slots=True)
class Placed:
    """An image of a batch: who it is and where it lies on its canvas.

    Attributes:
        key: The image's key, as results carry it.
        index: Position of the image in its source.
        frame: Frame number within a video, else None.
        pts_ms: Presentation time of the frame in milliseconds, else None.
        geometry: Where the image lies on its canvas.
    """

    key: str
    index: int
    frame: int | None
    pts_ms: float | None
    geometry: Geometry

    def failed(self, spec: ModelSpec, error: str, kind: FailureKind = "image") -> Detections:
        """Return the result of an image that has none, and why."""
        return failed_detections(
            spec,
            self.key,
            self.index,
            kind,
            error,
            frame=self.frame,
            pts_ms=self.pts_ms,
            size=self.geometry.image,
        )
