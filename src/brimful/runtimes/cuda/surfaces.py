"""Rows of the letterbox's table for images that are on the device already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brimful.vision.cuda.letterbox import COLUMNS, describe
from brimful.vision.geometry import Geometry
from brimful.vision.surface import Surface


def rows_of_surfaces(
    surfaces: Sequence[Surface], geometries: Sequence[Geometry], positions: Sequence[int]
) -> NDArray[np.int64]:
    """Describe surfaces for the letterbox kernel.

    Args:
        surfaces: The images.
        geometries: Where each lies on the canvas.
        positions: The row of the output that each one fills.

    Returns:
        int64 (images, letterbox.COLUMNS).
    """
    table = np.zeros((len(surfaces), COLUMNS), np.int64)
    known: dict[tuple[tuple[int, int], Geometry], NDArray[np.int64]] = {}
    for row, surface, geometry in zip(table, surfaces, geometries, strict=True):
        entry = known.get((surface.strides, geometry))
        if entry is None:  # the frames of a video differ in their addresses alone
            entry = known[surface.strides, geometry] = np.zeros(COLUMNS, np.int64)
            describe(entry, 0, (*surface.strides, -1), geometry, 0)
        row[:] = entry
    table[:, 0] = [surface.pointer + 2 for surface in surfaces]  # red is the last of BGR
    table[:, 10] = positions
    return table
