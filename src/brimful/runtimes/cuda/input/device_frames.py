"""Rows of the letterbox's table for images that are on the device already."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from brimful.vision.cuda.letterbox import COLUMNS, describe
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.geometry import Geometry


def rows_of_device_frames(
    device_frames: Sequence[DeviceFrame], geometries: Sequence[Geometry], positions: Sequence[int]
) -> NDArray[np.int64]:
    """Describe device frames for the letterbox kernel.

    Args:
        device_frames: The images.
        geometries: Where each lies on the canvas.
        positions: The row of the output that each one fills.

    Returns:
        int64 (images, letterbox.COLUMNS).
    """
    table = np.zeros((len(device_frames), COLUMNS), np.int64)
    known: dict[tuple[tuple[int, int], Geometry], NDArray[np.int64]] = {}
    for row, device_frame, geometry in zip(table, device_frames, geometries, strict=True):
        entry = known.get((device_frame.strides, geometry))
        if entry is None:  # the frames of a video differ in their addresses alone
            entry = known[device_frame.strides, geometry] = np.zeros(COLUMNS, np.int64)
            describe(entry, 0, (*device_frame.strides, -1), geometry, 0)
        row[:] = entry
    table[:, 0] = [
        device_frame.pointer + 2 for device_frame in device_frames
    ]  # red is the last of BGR
    table[:, 10] = positions
    return table
