"""Decoding: a driver's images on their way from files to pixels, in device memory that is reused.

All of it happens on one stream, so nothing is overwritten that somebody still reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.cuda.events import Event
from brimful.cuda.memory import zeros
from brimful.cuda.module import copy_in
from brimful.runtimes.cuda.input.pinned_files import place_of
from brimful.runtimes.cuda.input.plan import Plan, room
from brimful.spec import Size
from brimful.vision.cuda.jpeg import (
    ADDRESSES,
    ALIGNMENT,
    CANVAS,
    COLUMNS,
    FILE,
    GOOD,
    JpegDecoder,
)
from brimful.vision.encoded import Encoded
from brimful.vision.header import Header

GROWTH = 1.25
"""Memory is asked for with so much to spare: a few large images more must not ask again."""

FILES_SHARE = 16
"""Bytes of memory for decoded images, at the start, per byte for their files, which are small."""

GAP = 32 * 2**10
"""Bytes between files that are copied along: files were read one behind the other, and one copy
costs the host as much as many kilobytes cost the bus."""

SIZES_KEPT = 4096
"""Sizes of which it is remembered whether they fit; a job has few, or else one for each image."""


class Decoding:
    """Decodes a piece of a batch at a time. One thread uses it, but any may ask `takes`."""

    def __init__(
        self, decoder: JpegDecoder, batch: int, stream: Any, *, limit: int, initial: int = 0
    ) -> None:
        """Allocate the tables.

        Args:
            decoder: Shared with others.
            batch: Images of a piece at most.
            stream: Everything is queued there; its device is the current one.
            limit: Bytes of device memory for decoded images. Where there are not so many, it is
                halved until there are.
            initial: Bytes of these to take now; more is asked for when images need it.
        """
        device = stream.device
        self._decoder = decoder
        self._stream = stream
        self._limit = limit
        self._memory = torch.empty(initial, dtype=torch.uint8, device=device)
        files = initial // FILES_SHARE
        self._files_memory = torch.empty(files, dtype=torch.uint8, device=device)
        self._staged = torch.empty(0, dtype=torch.uint8, pin_memory=True)
        self._table_host = torch.zeros((batch, COLUMNS), dtype=torch.int64, pin_memory=True)
        self._table = zeros((batch, COLUMNS), torch.int64, device)
        self._statuses_host = torch.zeros(batch, dtype=torch.int32, pin_memory=True)
        self._statuses = zeros((batch,), torch.int32, device)
        self._finished = Event(blocking=True)
        self._taken: dict[tuple[Size | None, tuple[int, int] | None], bool] = {}
        self._taken_headers: dict[int, Header] = {}

    def takes(self, header: Header) -> bool:
        """Whether an image of this header is decoded here."""
        if self._taken_headers.get(id(header)) is header:  # as nearly all: they share a few
            return True
        if header.stored is None or not self._decoder.takes(header):
            return False
        key = header.stored, header.sampling
        fits = self._taken.get(key)
        if fits is None:
            fits = room(header).total <= self._limit
            if len(self._taken) >= SIZES_KEPT:
                self._taken.clear()
            self._taken[key] = fits
        if fits:
            if len(self._taken_headers) >= SIZES_KEPT:
                self._taken_headers.clear()
            self._taken_headers[id(header)] = header
        return fits

    def fitting(self, plans: Iterable[Plan]) -> list[Plan]:
        """Return the first plans, as many as fit the memory together.

        None does if the limit has been lowered since an image was taken.
        """
        fitting: list[Plan] = []
        size = 0
        for plan in plans:
            size += plan.room.total
            if size > self._limit:
                break
            fitting.append(plan)
        return fitting

    def decode(
        self, files: Sequence[Encoded], plans: Sequence[Plan], positions: Sequence[int]
    ) -> set[int]:
        """Decode files to planes, and wait until it is known which could be.

        What was decoded before is overwritten, but not before what the stream has been given by
        now has run.

        Args:
            files: Encoded images.
            plans: One for each of them; all of them fit.
            positions: Rows of the batch that they are for.

        Returns:
            Which files could not be decoded.

        Raises:
            RuntimeFailedError: The driver refuses.
            torch.OutOfMemoryError: There is not as much memory as the limit allows.
        """
        count = len(files)
        sizes = np.array([plan.room.total for plan in plans], np.int64)
        self._grow(int(sizes.sum()))
        starts = self._memory.data_ptr() + np.cumsum(sizes) - sizes
        table = self._table_host.numpy()[:count]
        first = plans[0]
        if all(plan is first for plan in plans):  # as nearly always: images of one size
            table[:] = first.entry
        else:
            np.concatenate([plan.entry for plan in plans], out=table.reshape(-1))
        table[:, ADDRESSES] += starts[:, None]
        table[:, CANVAS] = positions
        lengths = np.array([len(file.data) for file in files], np.int64)
        most = max(plan.room.planes for plan in plans)
        with torch.cuda.stream(self._stream):
            table[:, FILE] = np.stack((self._bring(self._places(files), lengths), lengths), 1)
            copy_in(self._table.data_ptr(), self._table_host.data_ptr(), table.nbytes)
            self._decoder.decode(
                self._table,
                self._statuses,
                self._statuses_host,
                count=count,
                most=most,
                mean=int(lengths.mean()),
            )
            self._finished.record(self._stream)
        self._finished.synchronize()
        return set(np.flatnonzero(self._statuses_host.numpy()[:count] != GOOD).tolist())

    def place(self, out: Any, count: int) -> None:
        """Queue what puts the images that were decoded last onto their canvases.

        Args:
            out: (batch, 3, height, width), as `JpegDecoder.place` has it.
            count: How many these are, with those that could not be decoded.
        """
        with torch.cuda.stream(self._stream):
            self._decoder.place(self._table, self._statuses, out, count=count)

    def close(self) -> None:
        """Free the memory; nothing may be in flight."""
        del self._memory, self._files_memory, self._staged, self._table, self._statuses

    def _grow(self, size: int) -> None:
        if size > self._memory.numel():
            self._stream.synchronize()
            # The old one need not fit beside the new one.
            self._memory = torch.empty(0, dtype=torch.uint8, device=self._stream.device)
            size = min(self._limit, int(size * GROWTH))
            try:
                self._memory = torch.empty(size, dtype=torch.uint8, device=self._stream.device)
            except torch.OutOfMemoryError:
                self._limit = size // 2  # from now on batches go in smaller pieces
                self._taken.clear()
                self._taken_headers.clear()
                raise

    def _bring(self, places: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Queue what copies files to the device, and return where they will be.

        Args:
            places: int64 (files, 2), as `_places` returns them.
            sizes: int64 (files,), bytes.
        """
        begins, lengths, run = runs(places, sizes)
        targets = np.cumsum([0, *(-(-lengths // ALIGNMENT) * ALIGNMENT)])
        if targets[-1] > self._files_memory.numel():
            self._stream.synchronize()
            device, size = self._stream.device, int(targets[-1] * GROWTH)
            self._files_memory = torch.empty(0, dtype=torch.uint8, device=device)
            self._files_memory = torch.empty(size, dtype=torch.uint8, device=device)
        targets = targets[:-1] + self._files_memory.data_ptr()
        each = zip(targets.tolist(), begins.tolist(), lengths.tolist(), strict=True)
        for target, begin, length in each:
            copy_in(target, begin, length)
        moved: NDArray[np.int64] = places[:, 0] + (targets - begins)[run]
        return moved

    def _places(self, files: Sequence[Encoded]) -> NDArray[np.int64]:
        """Return where files are in pinned memory; what is elsewhere is copied there first.

        Returns:
            int64 (files, 2), the address and a number that tells the allocations apart.
        """
        found = [place_of(file.data, file.address) for file in files]
        if None in found:
            away = [i for i, place in enumerate(found) if place is None]
            lengths = [len(files[i].data) for i in away]
            starts = np.cumsum([0, *(-(-length // ALIGNMENT) * ALIGNMENT for length in lengths)])
            if starts[-1] > self._staged.numel():
                size = int(starts[-1] * GROWTH)
                self._staged = torch.empty(size, dtype=torch.uint8, pin_memory=True)
            staged = self._staged.numpy()
            for i, start, length in zip(away, starts.tolist(), lengths, strict=False):
                staged[start : start + length] = np.frombuffer(files[i].data, np.uint8)
                found[i] = self._staged.data_ptr() + start, 0
        return np.array(found, np.int64)


def runs(
    places: NDArray[np.int64], sizes: NDArray[np.int64], gap: int = GAP
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """Join what lies close together in the same allocation.

    Args:
        places: int64 (things, 2), where each begins, in any order, and which allocation has it.
        sizes: int64 (things,), how long it is.
        gap: Up to which two things belong to one run.

    Returns:
        Where runs begin and how long they are, int64 (runs,), and the run of each thing, (things,).
    """
    order = np.lexsort((places[:, 0], places[:, 1]))
    begins, within = places[order].T
    ends = begins + sizes[order]
    first = np.ones(len(order), bool)
    first[1:] = (begins[1:] > ends[:-1] + gap) | (within[1:] != within[:-1])
    found = np.empty_like(order)
    found[order] = np.cumsum(first) - 1
    heads = np.flatnonzero(first)
    lengths = np.maximum.reduceat(ends, heads) - begins[heads]
    return begins[heads], lengths, found
