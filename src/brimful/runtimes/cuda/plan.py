"""Plan: what loading an image onto the device takes, the same for all images of a size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brimful.vision.cuda import ycc
from brimful.vision.cuda.letterbox import COLUMNS, describe, upright
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header

ALIGNMENT = 256
"""Bytes: where a plane or an image may start."""

ROW_ALIGNMENT = 64
"""Bytes that rows are rounded up to."""

PLANS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the parts of an image lie in memory, counted from where its memory starts.

    Attributes:
        conversion: int64 (ycc.COLUMNS,), the row that says where the planes are and converts them
            to BGR.
        entry: int64 (letterbox.COLUMNS,), the row that puts the BGR pixels onto the canvas; which
            row of the output is left to be filled in.
        decoded: Bytes of the planes.
        converted: Bytes of the BGR pixels.
    """

    conversion: NDArray[np.int64]
    entry: NDArray[np.int64]
    decoded: int
    converted: int


class Plans:
    """Plans by size, remembered: a job has few sizes, or else one for each image."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: dict[tuple[object, ...], Plan] = {}

    def of(self, header: Header, geometry: Geometry) -> Plan:
        """Return the plan of an image, which must have a size and a sampling."""
        key = header.stored, header.sampling, header.orientation, geometry
        plan = self._kept.get(key)
        if plan is None:
            if len(self._kept) >= PLANS_KEPT:
                self._kept.clear()
            plan = self._kept[key] = _plan(header, geometry)
        return plan


def room(header: Header) -> tuple[int, int]:
    """Return the bytes of an image's decoded planes and of its BGR pixels."""
    (height, width), (across, down) = _facts(header)
    # The engines may write whole blocks, beyond the last row and column.
    rows, columns = _up(height, 8 * down), _up(width, 8 * across)
    luma = _up(rows * _up(columns, ROW_ALIGNMENT), ALIGNMENT)
    chroma = _up(rows // down * _up(columns // across, ROW_ALIGNMENT), ALIGNMENT)
    return luma + 2 * chroma, _up(height * _up(3 * width, ROW_ALIGNMENT), ALIGNMENT)


def _plan(header: Header, geometry: Geometry) -> Plan:
    size, (across, down) = _facts(header)
    height, width = size
    rows, columns = _up(height, 8 * down), _up(width, 8 * across)
    luma_pitch = _up(columns, ROW_ALIGNMENT)
    chroma_pitch = _up(columns // across, ROW_ALIGNMENT)
    luma = _up(rows * luma_pitch, ALIGNMENT)
    chroma = _up(rows // down * chroma_pitch, ALIGNMENT)
    planes = (0, luma, luma + chroma)
    pitch = _up(3 * width, ROW_ALIGNMENT)
    conversion = np.zeros(ycc.COLUMNS, np.int64)
    pitches = (luma_pitch, chroma_pitch, pitch)
    ycc.describe(conversion, planes, 0, pitches, size, (across, down))
    entry = np.zeros(COLUMNS, np.int64)
    pointer, to_below, to_right, *_ = upright(header.orientation, size, 0, (pitch, 3))
    # Red is the last of BGR.
    describe(entry, pointer + 2, (to_below, to_right, -1), geometry, 0)
    decoded, converted = room(header)
    return Plan(
        conversion=conversion,
        entry=entry,
        decoded=decoded,
        converted=converted,
    )


def _facts(header: Header) -> tuple[tuple[int, int], tuple[int, int]]:
    assert header.stored is not None and header.sampling is not None
    return header.stored, header.sampling


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
