"""HostFrames: frames that CPUs have decoded, on their way from FFmpeg's planes to device frames.

The planes of a batch are copied into pinned memory in one call, cross the bus in one copy, with the
table that says where they are, and become BGR in one launch. What was brought before is overwritten
then: everything is on one stream, behind what reads it there, and the pinned memory is free once
the copy from it has ended. All memory is used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.cuda.events import Event
from brimful.cuda.module import copy_in
from brimful.native.copy_planes import COLUMNS as COPY_COLUMNS
from brimful.native.copy_planes import CopyPlanes, open_copier
from brimful.runtimes.cuda.input.decoding import GROWTH
from brimful.runtimes.cuda.input.video import ORIENTATIONS
from brimful.runtimes.cuda.techniques import Techniques
from brimful.spec import ModelSpec, Size
from brimful.vision.cuda.letterbox import upright
from brimful.vision.cuda.nv12 import FULL_RANGE, Colour, pitch_of
from brimful.vision.cuda.yuv420 import ADDRESSES, COLUMNS, describe, to_bgr
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.host_frame import HostFrame, HostFrameFormat

LIMIT = 256 * 2**20
"""Bytes of device memory for the host frames of a piece, planes and BGR: 180 of 768x432."""

ALIGNMENT = 256
"""Bytes: where the planes of a host frame may start."""

ROW_ALIGNMENT = 16

PLANS_KEPT = 4096

_FULL_RANGE_NAME = "yuvj420p"
"""What FFmpeg calls yuv420p whose values go from 0 to 255, whatever else the frame says."""


def open_host_frames(
    techniques: Techniques, spec: ModelSpec, *, budget: bool
) -> tuple[Callable[[HostFrame], bool] | None, str]:
    """Return what tells whether a host frame is converted on the device, and where, and why.

    Args:
        techniques: What is on.
        spec: The model; only colour models that take a letterboxed image qualify.
        budget: Whether the device memory of the process is limited: what frames take is not known
            before a video is opened.
    """
    if not techniques.host_frames:
        return None, "cpu"
    if spec.task == "classify" or spec.channels != 3:
        return None, "cpu (only for colour models that take whole images)"
    if budget:
        return None, "cpu (gpu_mem is kept, and what frames take cannot be known before)"
    plans = HostFramePlans()
    return lambda host_frame: plans.of(host_frame.format) is not None, "gpu"


@dataclass(frozen=True, slots=True)
class HostFramePlan:
    """Where the parts of a host frame lie in memory, counted from where its memory starts.

    Attributes:
        stored: (height, width) as the planes have it.
        copies: int64 (3, copy_planes.COLUMNS), its planes; where they come from is left to be
            filled in.
        entry: int64 (yuv420.COLUMNS,), the kernel's row: planes count from where planes start, the
            output from where outputs do.
        planes: Bytes of the planes.
        pixels: Bytes of the output.
        size: (height, width), upright.
        first: Where the upright image's first pixel is in the output.
        strides: Bytes from one to the pixel below and to the one at the right.
    """

    stored: Size
    copies: NDArray[np.int64]
    entry: NDArray[np.int64]
    planes: int
    pixels: int
    size: Size
    first: int
    strides: tuple[int, int]

    @property
    def staged(self) -> int:
        """Bytes that cross the bus."""
        return self.planes + self.entry.nbytes

    @property
    def total(self) -> int:
        """Bytes of device memory."""
        return self.staged + self.pixels


class HostFramePlans:
    """Plans by format, remembered. Any thread may ask."""

    def __init__(self) -> None:
        """Start with none."""
        self._kept: dict[HostFrameFormat, HostFramePlan | None] = {}

    def of(self, found: HostFrameFormat) -> HostFramePlan | None:
        """Return the plan of a format, None where the device would not give PyAV's pixels."""
        try:
            return self._kept[found]
        except KeyError:
            if len(self._kept) >= PLANS_KEPT:
                self._kept.clear()
            plan = self._kept[found] = _plan(found)
            return plan


class HostFrames:
    """Brings host frames to a device, a piece of a batch at a time. One thread uses it."""

    def __init__(self, batch: int, stream: Any, *, limit: int = LIMIT) -> None:
        """Take no memory yet.

        Args:
            batch: HostFrames of a piece at most.
            stream: Everything is queued there; its device is the current one.
            limit: Bytes of device memory. Where there are not so many, it is halved until there
                are.
        """
        self._batch = batch
        self._stream = stream
        self._limit = limit
        self._plans = HostFramePlans()
        self._copy_planes: CopyPlanes = open_copier()
        self._staged = torch.empty(0, dtype=torch.uint8, pin_memory=True)
        self._memory = torch.empty(0, dtype=torch.uint8, device=stream.device)
        self._copied = Event(blocking=True)

    def fitting(self, host_frames: Iterable[HostFrame]) -> list[HostFramePlan]:
        """Return the plans of the first host frames, as many as fit the memory together.

        None does if the first one is larger than the memory, or is not taken.
        """
        fitting: list[HostFramePlan] = []
        total = 0
        for host_frame in host_frames:
            plan = self._plans.of(host_frame.format)
            if plan is None or total + plan.total > self._limit:
                break
            total += plan.total
            fitting.append(plan)
        return fitting

    def bring(
        self, host_frames: Sequence[HostFrame], plans: Sequence[HostFramePlan]
    ) -> list[DeviceFrame | None]:
        """Queue what makes device frames of host frames, which are copied when this returns.

        The device frames are good for what the stream is given before the next call.

        Args:
            host_frames: The host frames.
            plans: One for each of them, as `fitting` returned them.

        Returns:
            For each host frame its device frame, or None where its planes are not what its format
            says.

        Raises:
            RuntimeFailedError: The driver refuses.
            torch.OutOfMemoryError: There is not as much memory as the limit allows.
        """
        planes = [
            _planes(host_frame, plan) for host_frame, plan in zip(host_frames, plans, strict=True)
        ]
        sources = [found for found in planes if found is not None]
        if not sources:
            return [None] * len(host_frames)
        chosen = [plan for plan, found in zip(plans, planes, strict=True) if found is not None]
        table_bytes = 8 * COLUMNS * len(chosen)
        starts = table_bytes + np.cumsum([0, *(plan.planes for plan in chosen)])
        outputs = starts[-1] + np.cumsum([0, *(plan.pixels for plan in chosen)])
        staged, whole = int(starts[-1]), int(outputs[-1])
        self._copied.synchronize()
        self._grow(staged, whole, max(chosen, key=lambda plan: plan.total))
        base = self._memory.data_ptr()
        host = self._staged.numpy()
        table = host[:table_bytes].view(np.int64).reshape(-1, COLUMNS)
        table[:] = [plan.entry for plan in chosen]
        addresses = table[:, ADDRESSES]
        addresses[:, :3] += base + starts[:-1, None]
        addresses[:, 3] += base + outputs[:-1]
        copies = np.array([plan.copies for plan in chosen])
        copies[:, :, :2] = sources
        copies[:, :, 2] += host.ctypes.data + starts[:-1, None]
        self._copy_planes(copies.reshape(-1, COPY_COLUMNS))
        largest = max(plan.stored[0] for plan in chosen), max(plan.stored[1] for plan in chosen)
        with torch.cuda.stream(self._stream):
            copy_in(base, self._staged.data_ptr(), staged)
            self._copied.record(self._stream)
            there = self._memory[:table_bytes].view(torch.int64).view(-1, COLUMNS)
            to_bgr(there, count=len(chosen), largest=largest)
        found = zip(chosen, (base + outputs[:-1]).tolist(), strict=True)
        device_frames = (
            DeviceFrame(plan.size, start + plan.first, plan.strides, plan.pixels, None)
            for plan, start in found
        )
        return [None if plane is None else next(device_frames) for plane in planes]

    def close(self) -> None:
        """Free the memory; nothing may be in flight."""
        del self._staged, self._memory

    def _grow(self, staged: int, whole: int, largest: HostFramePlan) -> None:
        """Make room, at once for as many host frames as there may be: batches fill up."""
        count = min(self._batch, self._limit // largest.total)
        if staged > self._staged.numel():
            size = max(int(staged * GROWTH), count * largest.staged)
            self._staged = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        if whole > self._memory.numel():
            self._stream.synchronize()
            # The old one need not fit beside the new one.
            self._memory = torch.empty(0, dtype=torch.uint8, device=self._stream.device)
            size = min(self._limit, max(int(whole * GROWTH), count * largest.total))
            try:
                self._memory = torch.empty(size, dtype=torch.uint8, device=self._stream.device)
            except torch.OutOfMemoryError:
                self._limit = size // 2  # from now on batches go in smaller pieces
                raise


def _planes(host_frame: HostFrame, plan: HostFramePlan) -> list[tuple[int, int]] | None:
    """Return address and pitch of the planes, None where rows are not as long as they should be."""
    planes = host_frame.planes
    if len(planes) != 3:
        return None
    _, width = plan.stored
    luma, blue, red = planes
    if luma.pitch < width or 2 * blue.pitch < width or 2 * red.pitch < width:
        return None
    return [luma, blue, red]


def _plan(found: HostFrameFormat) -> HostFramePlan | None:
    full = found.pixels == _FULL_RANGE_NAME
    if not full and found.pixels != "yuv420p":
        return None
    height, width = found.stored
    colour = Colour.of(found.matrix, FULL_RANGE if full else found.value_range)
    # swscale takes other paths for these, as it does for other formats
    if found.interlaced or height % 2 or width % 2 or height < 2 or width < 2 or colour is None:
        return None
    rows, columns = height // 2, width // 2
    pitches = _up(width, ROW_ALIGNMENT), _up(columns, ROW_ALIGNMENT)
    starts = 0, height * pitches[0], height * pitches[0] + rows * pitches[1]
    entry = np.zeros(COLUMNS, np.int64)
    describe(entry, pitches, found.stored, colour)
    entry[ADDRESSES] = (*starts, 0)
    copies = np.array(
        [
            (0, 0, starts[0], pitches[0], height, width),
            (0, 0, starts[1], pitches[1], rows, columns),
            (0, 0, starts[2], pitches[1], rows, columns),
        ],
        np.int64,
    )
    pitch = pitch_of(width)
    orientation = ORIENTATIONS[found.quarter_turns]
    first, down, right, *upright_size = upright(orientation, found.stored, 0, (pitch, 3))
    return HostFramePlan(
        stored=found.stored,
        copies=copies,
        entry=entry,
        planes=_up(starts[2] + rows * pitches[1], ALIGNMENT),
        pixels=_up(height * pitch, ALIGNMENT),
        size=(upright_size[0], upright_size[1]),
        first=first,
        strides=(down, right),
    )


def _up(value: int, step: int) -> int:
    return -(-value // step) * step
