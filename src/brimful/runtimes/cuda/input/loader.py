"""Loader: the images of a slot onto a lane, decoded on the device where they are encoded.

Device frames, frames of videos that were decoded there before, are read where they are. Host
frames, which the CPU has decoded, become device frames. Encoded images are decoded to planes and
from these put onto the canvas. A batch that does not fit the memory goes in pieces. An image that
the device cannot decode or convert is left to the CPU, and if that fails too, only that image has
an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.cuda.events import Event
from brimful.cuda.streams import give_stream, take_stream
from brimful.errors import ImageError
from brimful.runtimes.cuda.input.decoding import Decoding
from brimful.runtimes.cuda.input.device_frames import rows_of_device_frames
from brimful.runtimes.cuda.input.host_frames import HostFrames
from brimful.runtimes.cuda.input.plan import Plan, Plans
from brimful.runtimes.cuda.lane import Graph, Lane
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.vision.cuda.jpeg import JpegDecoder
from brimful.vision.cuda.letterbox import COLUMNS, describe, letterbox
from brimful.vision.decode import decode_pixels
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header
from brimful.vision.host_frame import HostFrame
from brimful.vision.letterbox import letterbox as host_letterbox
from brimful.vision.pixels import Pixels


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
        host_frames: bool = False,
    ) -> None:
        """Allocate the memory.

        Args:
            batch: Images of a batch at most.
            channels: Of the model's input.
            device: CUDA device, the current one.
            decoder: Shared with other loaders; None for no decode on the device.
            limit: With a decoder, bytes of device memory for decoded images.
            initial: Bytes of these to take now; more is asked for when images need it.
            host_frames: Whether slots take host frames.
        """
        self._channels = channels
        self._stream: Any = take_stream(device)
        self._ready = Event()
        self._plans = Plans()
        self._host_frames = HostFrames(batch, self._stream) if host_frames else None
        self._decoding: Decoding | None = None
        if decoder is not None:
            self._decoding = Decoding(decoder, batch, self._stream, limit=limit, initial=initial)

    @property
    def accepts_encoded(self) -> bool:
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
        encoded, host_frames, device_frames = slot.encoded, slot.host_frames, slot.device_frames
        on_host = [
            i
            for i in range(count)
            if encoded[i] is None and host_frames[i] is None and device_frames[i] is None
        ]
        there = [i for i in range(count) if device_frames[i] is not None]
        if there:
            yield _device_frames(slot, [device_frames[i] for i in there], there)
        pending = [i for i in range(count) if host_frames[i] is not None]
        start = 0
        while start < len(pending):
            chosen, found = self._bring(slot, pending[start:])
            start += len(chosen)
            each = list(zip(chosen, found, strict=True))
            brought = [i for i, device_frame in each if device_frame is not None]
            if brought:
                yield _device_frames(slot, found, brought)
            failed = [i for i, device_frame in each if device_frame is None]
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
                event.wait(self._stream)
            if self._decoding is not None and piece.decoded:
                self._decoding.place(graph.input, piece.decoded)
            if piece.table is not None:
                stop = start + len(piece.table)
                lane.table_host.numpy()[start:stop] = piece.table
                lane.table[start:stop].copy_(lane.table_host[start:stop], non_blocking=True)
                letterbox(lane.table[start:stop], graph.input, count=stop - start)
                start = stop
            self._ready.record(self._stream)
        self._ready.wait(lane.stream)
        return start

    def close(self) -> None:
        """Free the memory; nothing may be in flight."""
        if self._decoding is not None:
            self._decoding.close()
            self._decoding = None
        if self._host_frames is not None:
            self._host_frames.close()
            self._host_frames = None
        give_stream(self._stream)

    def _bring(
        self, slot: CudaSlot, positions: list[int]
    ) -> tuple[list[int], list[DeviceFrame | None]]:
        """Bring the host frames of as many of the positions as fit the memory, at least one.

        Returns:
            Their positions, and their device frames; None for one that the host must convert.
        """
        assert self._host_frames is not None
        plans = self._host_frames.fitting(_host_frame(slot, position) for position in positions)
        if not plans:
            return positions[:1], [None]
        chosen = positions[: len(plans)]
        return chosen, self._host_frames.bring([_host_frame(slot, i) for i in chosen], plans)

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


def _host_frame(slot: CudaSlot, position: int) -> HostFrame:
    host_frame = slot.host_frames[position]
    assert host_frame is not None
    return host_frame


def _device_frames(
    slot: CudaSlot, found: Sequence[DeviceFrame | None], positions: Sequence[int]
) -> Piece:
    """Return the piece of the device frames that are there, one for each of the positions."""
    device_frames = [device_frame for device_frame in found if device_frame is not None]
    geometries = [geometry for i in positions if (geometry := slot.geometries[i]) is not None]
    ready = [device_frame.ready for device_frame in device_frames if device_frame.ready is not None]
    return Piece(rows_of_device_frames(device_frames, geometries, positions), ready=ready)


def _decode_on_host(slot: CudaSlot, position: int, errors: dict[int, str]) -> bool:
    """Decode an image that the device could not; return whether its row has pixels now."""
    return _on_host(slot, position, lambda: decode_pixels(_encoded(slot, position)), errors)


def _convert_on_host(slot: CudaSlot, position: int, errors: dict[int, str]) -> bool:
    """Convert a host frame that the device could not; return whether its row has pixels now."""
    return _on_host(slot, position, _host_frame(slot, position).pixels, errors)


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
