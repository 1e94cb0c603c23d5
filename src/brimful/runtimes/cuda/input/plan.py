"""Plan: what loading an image onto the device takes, the same for all images of a size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from brimful.vision.cuda.jpeg import COLUMNS, describe, work_bytes
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header

ALIGNMENT = 256
"""Bytes: where an image may start."""

ROW_ALIGNMENT = 64
"""Bytes that rows are rounded up to."""

PLANS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that an image takes on the device.

    Attributes:
        planes: Of its planes.
        total: With the decoder's work.
    """

    planes: int
    total: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the parts of an image lie in memory, counted from where its memory starts.

    Attributes:
        entry: int64 (jpeg.COLUMNS,), the decoder's row; the file and the canvas are left to be
            filled in.
        room: What it takes.
    """

    entry: NDArray[np.int64]
    room: Room


class Plans:
    """Plans by size, remembered: a job has few sizes, or else one for each image."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: dict[tuple[object, ...], Plan] = {}
        self._seen: dict[tuple[int, int], tuple[Header, Geometry, Plan]] = {}

    def of(self, header: Header, geometry: Geometry) -> Plan:
        """Return the plan of an image, which the decoder takes."""
        # Images share few headers and geometries; to hash what these say costs more than all else.
        seen = self._seen.get((id(header), id(geometry)))
        if seen is not None and seen[0] is header and seen[1] is geometry:
            return seen[2]
        key = header.stored, header.sampling, header.orientation, geometry
        plan = self._kept.get(key)
        if plan is None:
            if len(self._kept) >= PLANS_KEPT:
                self._kept.clear()
            plan = self._kept[key] = _plan(header, geometry)
        if len(self._seen) >= PLANS_KEPT:
            self._seen.clear()
        self._seen[id(header), id(geometry)] = header, geometry, plan
        return plan


def room(header: Header) -> Room:
    """Return what an image takes, which the decoder takes."""
    layout = _layout(header)
    planes = layout.luma + 2 * layout.chroma
    return Room(planes, planes + _up(work_bytes(planes), ALIGNMENT))


@dataclass(frozen=True, slots=True)
class _Layout:
    """Bytes of each plane, and from row to row of both kinds."""

    luma: int
    chroma: int
    pitches: tuple[int, int]


def _layout(header: Header) -> _Layout:
    assert header.stored is not None
    (height, width), (across, down) = header.stored, header.sampling or (1, 1)
    # The decoder writes whole MCUs, beyond the last row and column.
    rows, columns = _up(height, 8 * down), _up(width, 8 * across)
    luma, chroma = _up(columns, ROW_ALIGNMENT), _up(columns // across, ROW_ALIGNMENT)
    if header.sampling is None:  # gray
        chroma = 0
    return _Layout(rows * luma, rows // down * chroma, (luma, chroma))


def _plan(header: Header, geometry: Geometry) -> Plan:
    layout, needed = _layout(header), room(header)
    entry = np.zeros(COLUMNS, np.int64)
    planes = 0, layout.luma, layout.luma + layout.chroma
    describe(entry, header, geometry, (*planes, needed.planes), layout.pitches)
    return Plan(entry=entry, room=needed)


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
