"""Corners of oriented boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def obb_corners(obb: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the corners of oriented boxes.

    Args:
        obb: (n, 5), `cx cy w h angle` in pixels and radians, y pointing down.

    Returns:
        float32 (n, 4, 2), `x y`, around the box. The first corner is the one at
        (+w/2, +h/2) in the frame of the box, then (+w/2, -h/2), (-w/2, -h/2), (-w/2, +h/2).
    """
    boxes = np.asarray(obb, np.float64)
    center, angle = boxes[:, None, :2], boxes[:, 4]
    along = boxes[:, 2, None] / 2 * np.stack((np.cos(angle), np.sin(angle)), -1)
    across = boxes[:, 3, None] / 2 * np.stack((-np.sin(angle), np.cos(angle)), -1)
    offsets = np.stack((along + across, along - across, -along - across, across - along), 1)
    corners: NDArray[np.float32] = (center + offsets).astype(np.float32)
    return corners
