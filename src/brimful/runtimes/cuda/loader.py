"""Loader: the images of a slot onto a lane, decoded on the device where they are encoded.

Decode goes to an arena of a ring, a letterbox kernel reads it from there, and a batch that does not
fit an arena goes in pieces. An image that the engines cannot decode is decoded on the CPU, and if
that fails too, only that image has an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.errors import ImageError
from brimful.runtimes.cuda.lane import Graph, Lane
from brimful.runtimes.cuda.ring import Arena, DecodeRing
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.spec import Size
from brimful.vision.cuda.letterbox import COLUMNS, describe, letterbox, upright
from brimful.vision.cuda.nvjpeg import NvJpeg, NvJpegError
from brimful.vision.decode import decode_pixels
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header
from brimful.vision.letterbox import letterbox as host_letterbox

ALIGNMENT = 256
"""Bytes: where an image may start in an arena, and what its rows are rounded up to."""

ARENAS = 2
"""One is read by the letterbox while the other is written by the decoder."""

PLANS_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Plan:
    """What loading an image takes, whatever its content: the same for all of a size.

    Attributes:
        entry: int64 (COLUMNS,), its row of the letterbox's table, with the pointer counted from
            the start of its memory and the row of the output left to be filled in.
        size: Bytes it takes decoded, rounded up.
        pitch: Bytes from row to row.
    """

    entry: NDArray[np.int64]
    size: int
    pitch: int


@dataclass(slots=True)
class Piece:
    """Images of a batch that are ready for the letterbox.

    Attributes:
        table: int64 (images, COLUMNS).
        arena: What holds them, to be released; None when the host's memory does.
    """

    table: NDArray[np.int64]
    arena: Arena | None


class Loader:
    """Decodes and places batches. One thread uses it."""

    def __init__(self, batch: int, channels: int, ring_bytes: int, device: Any) -> None:
        """Start the decoder and allocate its ring.

        Args:
            batch: Images of a batch at most.
            channels: Of the model's input; only colour models decode on the device.
            ring_bytes: Device memory for decoded images; 0 for no decode on the device.
            device: CUDA device, the current one.

        Raises:
            RuntimeFailedError: The device or the installation cannot decode.
        """
        self._channels = channels
        # The lanes' kernels fill the device. What prepares the next batch is small and must not
        # queue behind them, or decode and forward take turns instead of overlapping.
        self._stream: Any = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        self._ready: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._plans: dict[tuple[Geometry, int], Plan] = {}
        self._decoder: NvJpeg | None = None
        if ring_bytes and channels == 3:
            self._decoder = NvJpeg(batch)
            self._ring = DecodeRing(ring_bytes // ARENAS, device, arenas=ARENAS)

    @property
    def decodes(self) -> bool:
        """Whether the device decodes at all."""
        return self._decoder is not None

    def takes(self, header: Header) -> bool:
        """Whether an image of this header is decoded on the device."""
        if self._decoder is None or header.stored is None or not self._decoder.takes(header):
            return False
        height, width = header.stored
        return _bytes_of(height, width) <= self._ring.size

    def pieces(self, slot: CudaSlot, count: int, errors: dict[int, str]) -> Iterator[Piece]:
        """Yield the first `count` images of a slot, in pieces that are ready to be read.

        A piece must be read, and its arena released, before the next one is asked for.

        Args:
            slot: The batch.
            count: Images in it.
            errors: Gets the reason for each image that cannot be decoded, by its position.
        """
        encoded = slot.encoded
        on_host = [i for i in range(count) if encoded[i] is None]
        pending = [i for i in range(count) if encoded[i] is not None]
        start = 0
        while start < len(pending):
            plans, used = [], 0
            for position in pending[start:]:
                plan = self._plan(slot, position)
                if used + plan.size > self._ring.size:
                    break
                plans.append(plan)
                used += plan.size
            chosen = pending[start : start + len(plans)]
            start += len(plans)
            piece, failed = self._decoded(slot, chosen, plans)
            if piece is not None:
                yield piece
            for position in failed:
                if _decode_on_host(slot, position, errors):
                    on_host.append(position)
        if on_host:
            yield Piece(self._rows_of_pixels(slot, on_host), None)

    def load(self, piece: Piece, lane: Lane, graph: Graph, start: int) -> int:
        """Queue the letterbox of a piece, for which the lane will wait.

        Args:
            piece: Its images.
            lane: Free; what it ran before has ended.
            graph: Its input gets them.
            start: Rows of the lane's table that earlier pieces took.

        Returns:
            Rows that are taken now.
        """
        count = len(piece.table)
        stop = start + count
        lane.table_host.numpy()[start:stop] = piece.table
        with torch.cuda.stream(self._stream):
            lane.table[start:stop].copy_(lane.table_host[start:stop], non_blocking=True)
            letterbox(lane.table[start:stop], graph.input, count=count)
            if piece.arena is not None:
                piece.arena.release(self._stream)
            self._ready.record()
        lane.stream.wait_event(self._ready)
        return stop

    def close(self) -> None:
        """Release the decoder; nothing may be in flight."""
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
            del self._ring

    def _decoded(
        self, slot: CudaSlot, positions: list[int], plans: list[Plan]
    ) -> tuple[Piece | None, list[int]]:
        """Decode images into the next arena; return what is ready and who failed."""
        assert self._decoder is not None
        arena = self._ring.acquire()
        offsets = np.cumsum([0, *(plan.size for plan in plans[:-1])], dtype=np.int64)
        pointers = offsets + arena.pointer
        pitches = np.array([plan.pitch for plan in plans], np.int64)
        files = [_data(slot, position) for position in positions]
        failed: list[int] = []
        try:
            self._decode(files, pointers, pitches)
        except NvJpegError:
            failed = [
                i
                for i, file in enumerate(files)
                if not self._decodes_alone(file, pointers[i : i + 1], pitches[i : i + 1])
            ]
        table = np.stack([plan.entry for plan in plans])
        table[:, 0] += pointers
        table[:, 10] = positions
        if failed:
            good = [i for i in range(len(files)) if i not in failed]
            table = table[good]
        piece = Piece(table, arena) if len(table) else None
        return piece, [positions[i] for i in failed]

    def _decode(
        self, files: list[bytes], pointers: NDArray[np.int64], pitches: NDArray[np.int64]
    ) -> None:
        assert self._decoder is not None
        self._decoder.decode(files, pointers, pitches, self._stream.cuda_stream)
        self._stream.synchronize()

    def _decodes_alone(
        self, file: bytes, pointer: NDArray[np.int64], pitch: NDArray[np.int64]
    ) -> bool:
        try:
            self._decode([file], pointer, pitch)
        except NvJpegError:
            return False
        return True

    def _plan(self, slot: CudaSlot, position: int) -> Plan:
        encoded, geometry = slot.encoded[position], slot.geometries[position]
        assert encoded is not None and geometry is not None and encoded.header.stored is not None
        key = geometry, encoded.header.orientation
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[key] = _plan(encoded.header, geometry)
        return plan

    def _rows_of_pixels(self, slot: CudaSlot, positions: list[int]) -> NDArray[np.int64]:
        """Describe rows that the host has letterboxed: pinned memory, read in place."""
        width = slot.canvas[1]
        channels = self._channels
        whole = _whole(slot.canvas)
        rows = slot.inputs
        base, step = rows.ctypes.data, rows.strides[0]
        table = np.zeros((len(positions), COLUMNS), np.int64)
        red, next_channel = (2, -1) if channels == 3 else (0, 0)
        for entry, position in zip(table, positions, strict=True):
            strides = (width * channels, channels, next_channel)
            describe(entry, base + position * step + red, strides, whole, position)
        return table


def _plan(header: Header, geometry: Geometry) -> Plan:
    assert header.stored is not None
    height, width = header.stored
    pitch = _pitch(width)
    entry = np.zeros(COLUMNS, np.int64)
    pointer, down, right, *_ = upright(header.orientation, header.stored, 0, (pitch, 3))
    describe(entry, pointer + 2, (down, right, -1), geometry, 0)  # red is the last of BGR
    return Plan(entry, _bytes_of(height, width), pitch)


def _pitch(width: int) -> int:
    return -(-3 * width // ALIGNMENT) * ALIGNMENT


def _bytes_of(height: int, width: int) -> int:
    return height * _pitch(width)


def _whole(canvas: Size) -> Geometry:
    return Geometry(canvas, canvas, canvas, 0, 0)


def _data(slot: CudaSlot, position: int) -> bytes:
    encoded = slot.encoded[position]
    assert encoded is not None
    return encoded.data


def _decode_on_host(slot: CudaSlot, position: int, errors: dict[int, str]) -> bool:
    """Decode an image that the engines refused; return whether its row has pixels now."""
    encoded, geometry = slot.encoded[position], slot.geometries[position]
    assert isinstance(encoded, Encoded) and geometry is not None
    try:
        host_letterbox(decode_pixels(encoded), geometry, slot.inputs[position])
    except ImageError as error:
        errors[position] = str(error)
        return False
    return True
