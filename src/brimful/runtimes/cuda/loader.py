"""Loader: the images of a slot onto a lane, decoded on the device where they are encoded.

Surfaces, frames of videos that were decoded there before, are read where they are. Pictures, frames
that the CPU has decoded, become surfaces. Encoded images are decoded to planes and from these put
onto the canvas. A batch that does not fit the memory goes in pieces. An image that the device
cannot decode or convert is left to the CPU, and if that fails too, only that image has an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.errors import ImageError
from brimful.runtimes.cuda.decoding import Decoding
from brimful.runtimes.cuda.lane import Graph, Lane
from brimful.runtimes.cuda.pictures import Pictures
from brimful.runtimes.cuda.plan import Plan, Plans
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.cuda.streams import give_stream, take_stream
from brimful.runtimes.cuda.surfaces import rows_of_surfaces
from brimful.vision.cuda.jpeg import JpegDecoder
from brimful.vision.cuda.letterbox import COLUMNS, describe, letterbox
from brimful.vision.decode import decode_pixels
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header
from brimful.vision.letterbox import letterbox as host_letterbox
from brimful.vision.picture import Picture
from brimful.vision.pixels import Pixels
from brimful.vision.surface import Surface


@dataclass(slots=True)
class Piece:
    """Images of a batch that are ready to be read.

    Attributes:
        table: int64 (images, letterbox.COLUMNS), where their pixels are; None of what was decoded.
        decoded: Images that were decoded last, with those that could not be.
        ready: Events of the device after which the pixels are there.
    """

    table: NDArray[np.int64] | None
    decoded: int = 0
    ready: list[Any] = field(default_factory=list)


class Loader:
    """Decodes and places batches. One thread uses it, but any may ask `takes`."""

    def __init__(
        self,
        batch: int,
        channels: int,
        device: Any,
        *,
        decoder: JpegDecoder | None = None,
        limit: int = 0,
        initial: int = 0,
        pictures: bool = False,
    ) -> None:
        """Allocate the memory.

        Args:
            batch: Images of a batch at most.
            channels: Of the model's input.
            device: CUDA device, the current one.
            decoder: Shared with other loaders; None for no decode on the device.
            limit: With a decoder, bytes of device memory for decoded images.
            initial: Bytes of these to take now; more is asked for when images need it.
            pictures: Whether slots take pictures.
        """
        self._channels = channels
        self._stream: Any = take_stream(device)
        self._ready: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._plans = Plans()
        self._pictures = Pictures(batch, self._stream) if pictures else None
        self._decoding: Decoding | None = None
        if decoder is not None:
            self._decoding = Decoding(decoder, batch, self._stream, limit=limit, initial=initial)

    @property
    def decodes(self) -> bool:
        """Whether the device decodes at all."""
        return self._decoding is not None

    def takes(self, header: Header) -> bool:
        """Whether an image of this header is decoded on the device."""
        return self._decoding is not None and self._decoding.takes(header)

    def pieces(self, slot: CudaSlot, count: int, errors: dict[int, str]) -> Iterator[Piece]:
        """Yield the first `count` images of a slot, in pieces that are ready to be read.

        A piece must be loaded before the next one is asked for.

        Args:
            slot: The batch.
            count: Images in it.
            errors: Gets the reason for each image that cannot be decoded, by its position.
        """
        encoded, pictures, surfaces = slot.encoded, slot.pictures, slot.surfaces
        on_host = [
            i
            for i in range(count)
            if encoded[i] is None and pictures[i] is None and surfaces[i] is None
        ]
        there = [i for i in range(count) if surfaces[i] is not None]
        if there:
            yield _surfaces(slot, [surfaces[i] for i in there], there)
        pending = [i for i in range(count) if pictures[i] is not None]
        start = 0
        while start < len(pending):
            chosen, found = self._bring(slot, pending[start:])
            start += len(chosen)
            each = list(zip(chosen, found, strict=True))
            brought = [i for i, surface in each if surface is not None]
            if brought:
                yield _surfaces(slot, found, brought)
            failed = [i for i, surface in each if surface is None]
            on_host += [i for i in failed if _convert_on_host(slot, i, errors)]
        pending = [i for i in range(count) if encoded[i] is not None]
        start = 0
        while start < len(pending):
            plans = self._fitting(slot, pending[start:])
            chosen = pending[start : start + max(1, len(plans))]
            start += len(chosen)
            failed = chosen  # not even one fits any more
            if plans:
                failed = self._decode(slot, chosen, plans)
                yield Piece(None, decoded=len(chosen))
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
            Rows of them that are taken now.
        """
        with torch.cuda.stream(self._stream):
            for event in piece.ready:
                self._stream.wait_event(event)
            if self._decoding is not None and piece.decoded:
                self._decoding.place(graph.input, piece.decoded)
            if piece.table is not None:
                stop = start + len(piece.table)
                lane.table_host.numpy()[start:stop] = piece.table
                lane.table[start:stop].copy_(lane.table_host[start:stop], non_blocking=True)
                letterbox(lane.table[start:stop], graph.input, count=stop - start)
                start = stop
            self._ready.record()
        lane.stream.wait_event(self._ready)
        return start

    def close(self) -> None:
        """Free the memory; nothing may be in flight."""
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None
        if self._pictures is not None:
            self._pictures.close()
            self._pictures = None
        give_stream(self._stream)

    def _bring(
        self, slot: CudaSlot, positions: list[int]
    ) -> tuple[list[int], list[Surface | None]]:
        """Bring the pictures of as many of the positions as fit the memory, at least one.

        Returns:
            Their positions, and their surfaces; None for one that the host must convert.
        """
        assert self._pictures is not None
        plans = self._pictures.fitting(_picture(slot, position) for position in positions)
        if not plans:
            return positions[:1], [None]
        chosen = positions[: len(plans)]
        return chosen, self._pictures.bring([_picture(slot, i) for i in chosen], plans)

    def _fitting(self, slot: CudaSlot, positions: list[int]) -> list[Plan]:
        """Return the plans of as many images as fit the memory, in order."""
        assert self._decoding is not None
        return self._decoding.fitting(self._plan(slot, position) for position in positions)

    def _plan(self, slot: CudaSlot, position: int) -> Plan:
        geometry = slot.geometries[position]
        assert geometry is not None
        return self._plans.of(_encoded(slot, position).header, geometry)

    def _decode(self, slot: CudaSlot, positions: list[int], plans: list[Plan]) -> list[int]:
        """Decode images; return who failed."""
        assert self._decoding is not None
        files = [_encoded(slot, position) for position in positions]
        failed = self._decoding.decode(files, plans, positions)
        return [positions[i] for i in sorted(failed)]

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


def _encoded(slot: CudaSlot, position: int) -> Encoded:
    encoded = slot.encoded[position]
    assert encoded is not None
    return encoded


def _picture(slot: CudaSlot, position: int) -> Picture:
    picture = slot.pictures[position]
    assert picture is not None
    return picture


def _surfaces(slot: CudaSlot, found: Sequence[Surface | None], positions: Sequence[int]) -> Piece:
    """Return the piece of the surfaces that are there, one for each of the positions."""
    surfaces = [surface for surface in found if surface is not None]
    geometries = [geometry for i in positions if (geometry := slot.geometries[i]) is not None]
    ready = [surface.ready for surface in surfaces if surface.ready is not None]
    return Piece(rows_of_surfaces(surfaces, geometries, positions), ready=ready)


def _decode_on_host(slot: CudaSlot, position: int, errors: dict[int, str]) -> bool:
    """Decode an image that the device could not; return whether its row has pixels now."""
    return _on_host(slot, position, lambda: decode_pixels(_encoded(slot, position)), errors)


def _convert_on_host(slot: CudaSlot, position: int, errors: dict[int, str]) -> bool:
    """Convert a picture that the device could not; return whether its row has pixels now."""
    return _on_host(slot, position, _picture(slot, position).pixels, errors)


def _on_host(
    slot: CudaSlot, position: int, pixels: Callable[[], Pixels], errors: dict[int, str]
) -> bool:
    geometry = slot.geometries[position]
    assert geometry is not None
    try:
        host_letterbox(pixels(), geometry, slot.inputs[position])
    except ImageError as error:
        errors[position] = str(error)
        return False
    return True
