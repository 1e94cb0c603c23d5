"""Obb: rotated boxes on the original image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brimful.detections import Detections, FloatArray
from brimful.spec import ModelSpec
from brimful.vision.heads.placed import Placed
from brimful.vision.heads.rows import Inverse, Rows


def obb(
    rows: Rows, arrays: Sequence[FloatArray], placed: Sequence[Placed], spec: ModelSpec
) -> list[Detections]:
    """Return the rotated boxes of each image and their axis-aligned bounds.

    As in the reference, neither is clipped, sides scale with their axis (the letterbox changes
    the aspect ratio by less than a pixel) and the angle is the model's own, in no fixed range.
    """
    del arrays  # the rows hold all there is
    inverse = Inverse.of(rows, placed)
    rotated = np.concatenate(
        (
            (rows.boxes[:, :2] - inverse.offset) / inverse.gain,
            rows.boxes[:, 2:] / inverse.gain,
            rows.extra,
        ),
        axis=1,
    )
    corners = polygons(rotated)
    bounds = np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)
    return rows.detections(placed, spec, bounds, obb=rotated)


def polygons(rotated: FloatArray) -> FloatArray:
    """Return the corners (n, 4, 2) of rotated boxes (n, 5) `cx cy w h angle`.

    They start at the box's own bottom right (+w/2, +h/2) and go on to its top right, top left
    and bottom left, which is the order of the reference's `xyxyxyxy`.
    """
    cos, sin = np.cos(rotated[:, 4]), np.sin(rotated[:, 4])
    along = np.stack((cos, sin), axis=1) * (rotated[:, 2:3] / 2)
    across = np.stack((-sin, cos), axis=1) * (rotated[:, 3:4] / 2)
    steps = np.stack((along + across, along - across, -along - across, across - along), axis=1)
    return (rotated[:, None, :2] + steps).astype(np.float32, copy=False)
