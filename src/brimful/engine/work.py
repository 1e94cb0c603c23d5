"""Work: one image in flight, and whoever waits for its result."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

from brimful.detections import Detections
from brimful.sources.image import SourceImage
from brimful.vision.geometry import Geometry

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
