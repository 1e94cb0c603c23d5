"""Loader: the images of a slot onto a lane, decoded on the device where they are encoded.

Surfaces, frames of videos that were decoded there before, are read where they are. For encoded
images the engines decode to an arena of a ring; kernels turn the planes there into BGR pixels and
put these onto the canvas. A batch that does not fit an arena goes in pieces. An image that the
engines cannot decode is decoded on the CPU, and if that fails too, only that image has an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.errors import ImageError
from brimful.runtimes.cuda.lane import Graph, Lane
from brimful.runtimes.cuda.plan import Plan, Plans, room
from brimful.runtimes.cuda.ring import Arena, DecodeRing
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.cuda.surfaces import rows_of_surfaces
from brimful.spec import Size
from brimful.vision.cuda.letterbox import COLUMNS, describe, letterbox
from brimful.vision.cuda.nvjpeg import NvJpeg, NvJpegError
from brimful.vision.cuda.witness import find_unwritten, mark
from brimful.vision.cuda.ycc import to_bgr
from brimful.vision.decode import decode_pixels
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header
from brimful.vision.letterbox import letterbox as host_letterbox

ARENAS = 2
"""One is read while the other is written by the decoder."""

SIZES_KEPT = 4096
"""Sizes of which it is remembered whether they fit; a job has few, or else one for each image."""


@dataclass(slots=True)
class Piece:
    """Images of a batch that are ready to be read.

    Attributes:
        table: int64 (images, letterbox.COLUMNS), where their pixels are or will be.
        size: Largest (height, width) as stored among them.
        arena: Holds their planes and says where, to be released; None for pixels on the host.
        ready: Events of the device after which the pixels are there.
    """

    table: NDArray[np.int64]
    size: Size = (0, 0)
    arena: Arena | None = None
    ready: list[Any] = field(default_factory=list)


class Loader:
    """Decodes and places batches. One thread uses it, but any may ask `takes`.

    Attributes:
        repeated: Images that were decoded a second time, alone: the engines had refused or skipped
            them.
    """

    def __init__(
        self,
        batch: int,
        channels: int,
        device: Any,
        *,
        decoder: NvJpeg | None = None,
        pixel_bytes: int = 0,
    ) -> None:
        """Allocate the memory.

        Args:
            batch: Images of a batch at most.
            channels: Of the model's input.
            device: CUDA device, the current one.
            decoder: Shared with other loaders; None for no decode on the device.
            pixel_bytes: With a decoder, device memory for decoded BGR pixels, and as much again
                for the planes before them.
        """
        self._channels = channels
        # The lanes' kernels fill the device. What prepares the next batch is small and must not
        # queue behind them, or decode and forward take turns instead of overlapping.
        self._stream: Any = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        # The engines do not wait for a stream, so the host has to. It must not wait for the batch
        # before, which is being placed meanwhile.
        self._decoding: Any = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]
        self._ready: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._plans = Plans()
        self._taken: dict[tuple[Size | None, tuple[int, int] | None], bool] = {}
        self.repeated = 0
        self._decoder = decoder
        if decoder is not None:
            self._ring = DecodeRing(pixel_bytes // ARENAS, batch, device, arenas=ARENAS)
            # Kernels alone write it, in the order of the stream, so one is enough.
            self._pixels = torch.empty(pixel_bytes, dtype=torch.uint8, device=device)
            self._unwritten = torch.zeros(batch, dtype=torch.int32, pin_memory=True)

    @property
    def decodes(self) -> bool:
        """Whether the device decodes at all."""
        return self._decoder is not None

    def takes(self, header: Header) -> bool:
        """Whether an image of this header is decoded on the device."""
        if self._decoder is None or header.stored is None or not self._decoder.takes(header):
            return False
        key = header.stored, header.sampling
        fits = self._taken.get(key)
        if fits is None:
            decoded, converted = room(header)
            fits = decoded <= self._ring.size and converted <= self._pixels.numel()
            if len(self._taken) >= SIZES_KEPT:
                self._taken.clear()
            self._taken[key] = fits
        return fits

    def pieces(self, slot: CudaSlot, count: int, errors: dict[int, str]) -> Iterator[Piece]:
        """Yield the first `count` images of a slot, in pieces that are ready to be read.

        A piece must be loaded before the next one is asked for.

        Args:
            slot: The batch.
            count: Images in it.
            errors: Gets the reason for each image that cannot be decoded, by its position.
        """
        encoded, surfaces = slot.encoded, slot.surfaces
        on_host = [i for i in range(count) if encoded[i] is None and surfaces[i] is None]
        pending = [i for i in range(count) if encoded[i] is not None]
        if any(surfaces[:count]):
            yield _surfaces(slot, count)
        start = 0
        while start < len(pending):
            plans = self._fitting(slot, pending[start:])
            chosen = pending[start : start + len(plans)]
            start += len(plans)
            piece, failed = self._decoded(slot, chosen, plans)
            if piece is not None:
                yield piece
            on_host += [i for i in failed if _decode_on_host(slot, i, errors)]
        if on_host:
            yield Piece(self._rows_of_pixels(slot, on_host))

    def load(self, piece: Piece, lane: Lane, graph: Graph, start: int) -> int:
        """Queue what brings a piece onto a lane, for which the lane will wait.

        Args:
            piece: Its images.
            lane: Free; what it ran before has ended.
            graph: Its input gets them.
            start: Rows of the lane's tables that earlier pieces took.

        Returns:
            Rows that are taken now.
        """
        count = len(piece.table)
        stop = start + count
        lane.table_host.numpy()[start:stop] = piece.table
        with torch.cuda.stream(self._stream):
            for event in piece.ready:
                self._stream.wait_event(event)
            if piece.arena is not None:
                to_bgr(piece.arena.planes, count=count, size=piece.size)
                piece.arena.release(self._stream)
            lane.table[start:stop].copy_(lane.table_host[start:stop], non_blocking=True)
            letterbox(lane.table[start:stop], graph.input, count=count)
            self._ready.record()
        lane.stream.wait_event(self._ready)
        return stop

    def close(self) -> None:
        """Free the memory; nothing may be in flight."""
        if self._decoder is not None:
            self._decoder = None
            del self._ring, self._pixels

    def _fitting(self, slot: CudaSlot, positions: list[int]) -> list[Plan]:
        """Return the plans of as many images as fit the memory, in order."""
        plans: list[Plan] = []
        decoded = converted = 0
        for position in positions:
            encoded, geometry = slot.encoded[position], slot.geometries[position]
            assert encoded is not None and geometry is not None
            plan = self._plans.of(encoded.header, geometry)
            decoded, converted = decoded + plan.decoded, converted + plan.converted
            if decoded > self._ring.size or converted > self._pixels.numel():
                break
            plans.append(plan)
        return plans

    def _decoded(
        self, slot: CudaSlot, positions: list[int], plans: list[Plan]
    ) -> tuple[Piece | None, list[int]]:
        """Decode images into the next arena; return what is ready and who failed."""
        arena = self._ring.acquire()
        starts = arena.pointer + _starts([plan.decoded for plan in plans])
        pixels = self._pixels.data_ptr() + _starts([plan.converted for plan in plans])
        files = [_encoded(slot, position).data for position in positions]
        planes = np.stack([plan.conversion for plan in plans])
        planes[:, 0:3] += starts[:, None]
        planes[:, 3] += pixels
        failed = self._decode(files, planes, arena)
        table = np.stack([plan.entry for plan in plans])
        table[:, 0] += pixels
        table[:, 10] = positions
        good = [i for i in range(len(files)) if i not in failed]
        if not good:
            return None, positions
        stored = [_encoded(slot, positions[i]).header.stored or (0, 0) for i in good]
        size = max(height for height, _ in stored), max(width for _, width in stored)
        piece = Piece(table[good], size, arena)
        return piece, [positions[i] for i in sorted(failed)]

    def _decode(
        self, files: list[bytes | memoryview], planes: NDArray[np.int64], arena: Arena
    ) -> set[int]:
        """Decode images together, and one by one what was refused or skipped then.

        Args:
            files: The encoded images.
            planes: int64 (images, ycc.COLUMNS), where they go.
            arena: Where that is; left with the rows of those that were decoded.

        Returns:
            Who failed both times.
        """
        odd = sorted(self._decode_once(files, planes, arena))
        if not odd:
            return set()
        self.repeated += len(odd)
        failed = {i for i in odd if self._decode_once(files[i : i + 1], planes[i : i + 1], arena)}
        with torch.cuda.stream(self._decoding):
            arena.describe(planes[[i for i in range(len(files)) if i not in failed]])
            self._decoding.synchronize()
        return failed

    def _decode_once(
        self, files: list[bytes | memoryview], planes: NDArray[np.int64], arena: Arena
    ) -> set[int]:
        """Decode images together; return who was not, all of them if the library refused."""
        assert self._decoder is not None
        count, height = len(files), int(planes[:, 7].max())
        unwritten = self._unwritten.numpy()[:count]
        unwritten[:] = 0
        with torch.cuda.stream(self._decoding):
            arena.describe(planes)
            mark(arena.planes, count=count, height=height)
            self._decoding.synchronize()  # the engines do not wait for the stream
            pointers, pitches = planes[:, 0:3], planes[:, [4, 5, 5]]
            try:
                self._decoder.decode(files, pointers, pitches, self._decoding.cuda_stream)
            except NvJpegError:
                return set(range(count))
            find_unwritten(arena.planes, self._unwritten, count=count, height=height)
            self._decoding.synchronize()
        return set(np.flatnonzero(unwritten).tolist())

    def _rows_of_pixels(self, slot: CudaSlot, positions: list[int]) -> NDArray[np.int64]:
        """Describe rows that the host has letterboxed: pinned memory, read in place."""
        rows = slot.inputs
        entry = np.zeros(COLUMNS, np.int64)
        red, next_channel = (2, -1) if self._channels == 3 else (0, 0)
        whole = Geometry(slot.canvas, slot.canvas, slot.canvas, 0, 0)
        strides = (rows.strides[1], rows.strides[2], next_channel)
        describe(entry, rows.ctypes.data + red, strides, whole, 0)
        table = np.tile(entry, (len(positions), 1))
        table[:, 10] = positions
        table[:, 0] += table[:, 10] * rows.strides[0]
        return table


def _starts(sizes: list[int]) -> NDArray[np.int64]:
    """Return where things of these sizes start, one after the other."""
    return np.cumsum([0, *sizes[:-1]], dtype=np.int64)


def _encoded(slot: CudaSlot, position: int) -> Encoded:
    encoded = slot.encoded[position]
    assert encoded is not None
    return encoded


def _surfaces(slot: CudaSlot, count: int) -> Piece:
    """Return the piece of the surfaces among the first `count` images."""
    chosen = [
        (surface, geometry, i)
        for i, (surface, geometry) in enumerate(
            zip(slot.surfaces[:count], slot.geometries[:count], strict=True)
        )
        if surface is not None and geometry is not None
    ]
    surfaces, geometries, positions = zip(*chosen, strict=True)
    ready = [surface.ready for surface in surfaces if surface.ready is not None]
    return Piece(rows_of_surfaces(surfaces, geometries, positions), ready=ready)


def _decode_on_host(slot: CudaSlot, position: int, errors: dict[int, str]) -> bool:
    """Decode an image that the engines refused; return whether its row has pixels now."""
    geometry = slot.geometries[position]
    assert geometry is not None
    try:
        pixels = decode_pixels(_encoded(slot, position))
        host_letterbox(pixels, geometry, slot.inputs[position])
    except ImageError as error:
        errors[position] = str(error)
        return False
    return True
