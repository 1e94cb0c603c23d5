"""Detect: boxes on the original image."""

from __future__ import annotations

from collections.abc import Sequence

from brimful.detections import Detections, FloatArray
from brimful.spec import ModelSpec
from brimful.vision.heads.placed import Placed
from brimful.vision.heads.rows import Inverse, Rows


def detect(
    rows: Rows, arrays: Sequence[FloatArray], placed: Sequence[Placed], spec: ModelSpec
) -> list[Detections]:
    """Return the boxes of each image, clipped to it."""
    del arrays  # the rows hold all there is
    return rows.detections(placed, spec, Inverse.of(rows, placed).boxes(rows.boxes))
