"""Work: one image in flight, and whoever waits for its result."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from brimful.detections import Detections
from brimful.sources.image import SourceImage
from brimful.spec import ModelSpec
from brimful.vision.geometry import Geometry
from brimful.vision.postprocess import Placed


class Owner(Protocol):
    """Whoever waits for results: told once of each of its images, on some stage's thread."""

    @property
    def source(self) -> Hashable:
        """Whom its images come from, for fairness."""
        ...

    def settle(self, works: Sequence[Work], results: Sequence[Detections]) -> None:
        """Take the results of some of its images (with `error` set for bad ones)."""
        ...

    def fail(self, works: Sequence[Work], error: Exception) -> None:
        """Learn why some of its images will have no result: the engine stopped."""
        ...


@dataclass(slots=True, eq=False)
class Work:
    """One image in flight.

    Attributes:
        image: What to decode.
        owner: Told the result.
        number: The owner's own number of it.
        deadline: When its result is no longer wanted, on the engine's clock, or None.
        geometry: Where it lies on its canvas, once that is known.
    """

    image: SourceImage
    owner: Owner
    number: int = 0
    deadline: float | None = None
    geometry: Geometry | None = None

    def placed(self) -> Placed:
        """Return what postprocess needs to know; the geometry must be known."""
        assert self.geometry is not None
        image = self.image
        return Placed(image.key, image.index, image.frame, image.pts_ms, self.geometry)

    def failed(self, spec: ModelSpec, error: str) -> Detections:
        """Return the result of an image that has none."""
        if self.geometry is not None:
            return self.placed().failed(spec, error)
        image = self.image
        return Detections(
            image=image.key,
            index=image.index,
            frame=image.frame,
            pts_ms=image.pts_ms,
            height=0,
            width=0,
            task=spec.task,
            names=spec.names,
            error=error,
        )
