"""Pose: boxes and keypoints on the original image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from brimful.detections import Detections, FloatArray
from brimful.errors import ModelError
from brimful.spec import ModelSpec
from brimful.vision.heads.placed import Placed
from brimful.vision.heads.rows import Inverse, Rows


def pose(
    rows: Rows, arrays: Sequence[FloatArray], placed: Sequence[Placed], spec: ModelSpec
) -> list[Detections]:
    """Return the boxes and keypoints of each image, clipped to it."""
    del arrays  # the rows hold all there is
    if spec.kpt_shape is None:
        raise ModelError("a pose model needs kpt_shape, (keypoints, 2 or 3), in its metadata")
    inverse = Inverse.of(rows, placed)
    keypoints = rows.extra.reshape(-1, *spec.kpt_shape)
    # what comes after x and y is the visibility, which no geometry touches
    keypoints = np.concatenate((inverse.points(keypoints[..., :2]), keypoints[..., 2:]), axis=-1)
    return rows.detections(placed, spec, inverse.boxes(rows.boxes), keypoints=keypoints)
