"""Work: one image in flight, and whoever waits for its result."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from brimful.detections import Detections
from brimful.sources.image import SourceImage
from brimful.spec import ModelSpec
from brimful.vision.geometry import Geometry
from brimful.vision.postprocess import Placed

Settle = Callable[["Detections | None", Exception | None], None]
"""Told once: the detections (with `error` set for a bad image), or why the engine stopped."""


@dataclass(slots=True, eq=False)
class Work:
    """One image in flight.

    Attributes:
        image: What to decode.
        settle: Told the result.
        source: Whom it came from, for fairness.
        deadline: When its result is no longer wanted, on the engine's clock, or None.
        geometry: Where it lies on its canvas, once that is known.
    """

    image: SourceImage
    settle: Settle
    source: Hashable
    deadline: float | None = None
    geometry: Geometry | None = None

    def placed(self) -> Placed:
        """Return what postprocess needs to know; the geometry must be known."""
        assert self.geometry is not None
        image = self.image
        return Placed(image.key, image.index, image.frame, image.pts_ms, self.geometry)

    def failed(self, spec: ModelSpec, error: str) -> Detections:
        """Return the result of an image that has none."""
        image = self.image
        height, width = self.geometry.image if self.geometry else (0, 0)
        return Detections(
            image=image.key,
            index=image.index,
            frame=image.frame,
            pts_ms=image.pts_ms,
            height=height,
            width=width,
            task=spec.task,
            names=spec.names,
            error=error,
        )
