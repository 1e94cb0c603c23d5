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
    layout = _layout(header)
    return layout.luma + 2 * layout.chroma, layout.pixels


@dataclass(frozen=True, slots=True)
class _Layout:
    """Bytes of each plane and of the BGR pixels, and from row to row of each."""

    luma: int
    chroma: int
    pixels: int
    pitches: tuple[int, int, int]


def _layout(header: Header) -> _Layout:
    assert header.stored is not None and header.sampling is not None
    (height, width), (across, down) = header.stored, header.sampling
    # The engines may write whole blocks, beyond the last row and column.
    rows, columns = _up(height, 8 * down), _up(width, 8 * across)
    luma, chroma = _up(columns, ROW_ALIGNMENT), _up(columns // across, ROW_ALIGNMENT)
    pixels = _up(3 * width, ROW_ALIGNMENT)
    return _Layout(
        luma=_up(rows * luma, ALIGNMENT),
        chroma=_up(rows // down * chroma, ALIGNMENT),
        pixels=_up(height * pixels, ALIGNMENT),
        pitches=(luma, chroma, pixels),
    )


def _plan(header: Header, geometry: Geometry) -> Plan:
    assert header.stored is not None and header.sampling is not None
    layout = _layout(header)
    conversion = np.zeros(ycc.COLUMNS, np.int64)
    planes = (0, layout.luma, layout.luma + layout.chroma)
    ycc.describe(conversion, planes, 0, layout.pitches, header.stored, header.sampling)
    entry = np.zeros(COLUMNS, np.int64)
    strides = (layout.pitches[2], 3)
    pointer, to_below, to_right, *_ = upright(header.orientation, header.stored, 0, strides)
    # Red is the last of BGR.
    describe(entry, pointer + 2, (to_below, to_right, -1), geometry, 0)
    decoded, converted = room(header)
    return Plan(conversion=conversion, entry=entry, decoded=decoded, converted=converted)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
