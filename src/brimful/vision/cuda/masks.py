"""DeviceMasks: from prototypes and selected rows on the GPU to run lengths on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray

from brimful.cuda.memory import zeros
from brimful.detections import FloatArray, IntArray
from brimful.errors import ModelError
from brimful.spec import Size
from brimful.vision.cuda.mask_changes import (
    GEOMETRY,
    TILE,
    WINDOW,
    find_changes,
    place_changes,
    place_masks,
)
from brimful.vision.cuda.mask_text import measure_text, write_text
from brimful.vision.geometry import Geometry
from brimful.vision.heads.encoded_masks import NOT_ENCODED, EncodedMasks
from brimful.vision.masks import Axis, axes

COLUMN_ROOM = 2**15
"""Columns of boxes that an image has room for: 30 boxes of 1,000 pixels. An image with more, or one
of the next two, has its last masks computed on the host, whatever its neighbours take."""

CHANGE_ROOM = 2**16
"""Starts and ends of runs that an image has room for."""

TEXT_ROOM = 2**16
"""Bytes of run lengths that an image has room for, and the most of them that cross the bus."""

PROGRAMS = 4096
"""Programs that share the blocks of a batch's masks."""

CHUNK = 1024
ROWS = 256
"""Columns or changes, and rows, that a kernel looks at at a time."""


class MaskBuffers:
    """Memory of a lane for the masks of one batch at a time; its graphs share it.

    Of an image it takes about 450 KiB of the device for 300 rows, and 64 KiB of the host.

    Attributes:
        images: Images of a batch at most.
        limit: Rows of an image at most.
        rows: float32 (images * limit, width) on the device, the selected rows.
        counts: int32 (2, images) on the device, with them.
    """

    def __init__(self, images: int, limit: int, width: int, device: Any) -> None:
        """Allocate it.

        Args:
            images: Images of a batch at most.
            limit: Rows of an image at most.
            width: Columns of a row.
            device: Where, a torch device.
        """
        device = torch.device(device)
        self.images, self.limit = images, limit

        def make(*shape: int, dtype: Any = torch.int32) -> Any:
            return zeros(shape, dtype, device)

        self.rows = make(images * limit, width, dtype=torch.float32)
        self.counts = make(2, images)
        self.geometry = make(images, GEOMETRY, dtype=torch.float64)
        self.first_row, self.used = make(images), make(images)
        self.boxes = make(images, limit, 4)
        self.columns, self.blocks = make(images, limit + 1), make(images, limit + 1)
        self.offsets = make(images, COLUMN_ROOM + 1)
        self.changes = make(images, CHANGE_ROOM)
        self.found, self.sizes = make(images, limit), make(images, limit)
        # Kernels write straight into pinned memory: what is not text never travels.
        pinned = {"pin_memory": device.type == "cuda"}
        self.geometry_host = torch.zeros((images, GEOMETRY), dtype=torch.float64, **pinned)
        self.lengths = torch.zeros((images, limit), dtype=torch.int32, **pinned)
        self.text = torch.zeros((images, TEXT_ROOM), dtype=torch.uint8, **pinned)


class DeviceMasks:
    """Computes and encodes the masks of what was selected, where the network left the prototypes.

    The masks are those of `brimful.vision.masks`: weights and boxes are the same to the last bit,
    and pixels differ only where a logit is so close to zero that the order of a sum decides.
    Prototypes that are not finite spoil a mask within 16 of their pixels, on the host everywhere.
    """

    def __init__(self, buffers: MaskBuffers, batch: int, grid: Size) -> None:
        """Prepare for prototypes of one shape.

        Args:
            buffers: Memory; `DeviceSelect` writes its rows there, too.
            batch: Images of a forward.
            grid: (height, width) of the prototypes.
        """
        self._buffers, self._batch, self._grid = buffers, batch, grid
        self._prototypes: Any = None

    def place(self, geometries: Sequence[Geometry | None]) -> None:
        """Say where the images of the next launch lie; queues a copy on the current stream.

        The launch before must have been waited for. Masks of an image whose geometry is None are
        left to the host.
        """
        buffers, count = self._buffers, len(geometries)
        table = buffers.geometry_host.numpy()
        for row, geometry in zip(table, geometries, strict=False):
            row[:] = 0.0 if geometry is None else _described(geometry, self._grid)
        buffers.geometry[:count].copy_(buffers.geometry_host[:count], non_blocking=True)

    def launch(self, prototypes: Any) -> None:
        """Launch the kernels on the current stream, behind those of the selection.

        Nothing is allocated, nothing waits and nothing depends on values on the host, so a CUDA
        graph can capture it after a first launch outside, which compiles.

        Args:
            prototypes: float32 (batch, channels, height, width) of any strides, kept until the next
                launch.

        Raises:
            ModelError: They have another shape or type.
        """
        b, batch, grid = self._buffers, self._batch, self._grid
        channels = b.rows.shape[1] - 6
        if tuple(prototypes.shape) != (batch, channels, *grid) or prototypes.dtype != torch.float32:
            raise ModelError(
                f"expected float32 prototypes {(batch, channels, *grid)}, got {prototypes.dtype} "
                f"{tuple(prototypes.shape)}; is it a segment model?"
            )
        self._prototypes = prototypes
        limit = b.limit
        rows_at_a_time = min(ROWS, max(16, triton.next_power_of_2(limit)))
        place_masks[(batch,)](
            b.rows,
            b.counts[0],
            b.geometry,
            b.first_row,
            b.boxes,
            b.columns,
            b.used,
            b.blocks,
            b.rows.shape[1],
            limit,
            COLUMN_ROOM,
            GEOMETRY=GEOMETRY,
            IMAGES=triton.next_power_of_2(batch),
            CHUNK=rows_at_a_time,
            enable_fp_fusion=False,
        )
        self._find(prototypes, rows_at_a_time, write=False)
        place_changes[(batch,)](
            b.used, b.offsets, COLUMN_ROOM, CHANGE_ROOM, CHUNK=CHUNK, enable_fp_fusion=False
        )
        self._find(prototypes, rows_at_a_time, write=True)
        self._encode()

    def _encode(self) -> None:
        """Write the masks' text from their changes."""
        b, batch, programs = self._buffers, self._batch, self._programs()
        counts, limit = b.counts[0], b.limit
        measure_text[(batch, programs)](
            counts,
            b.geometry,
            b.boxes,
            b.columns,
            b.offsets,
            b.changes,
            b.found,
            b.sizes,
            limit,
            COLUMN_ROOM,
            CHANGE_ROOM,
            TEXT_ROOM,
            programs,
            GEOMETRY=GEOMETRY,
            CHUNK=CHUNK,
            enable_fp_fusion=False,
        )
        write_text[(batch, programs)](
            counts,
            b.geometry,
            b.columns,
            b.offsets,
            b.changes,
            b.found,
            b.sizes,
            b.lengths,
            b.text,
            limit,
            COLUMN_ROOM,
            CHANGE_ROOM,
            TEXT_ROOM,
            programs,
            GEOMETRY=GEOMETRY,
            CHUNK=CHUNK,
            enable_fp_fusion=False,
        )

    def masks(
        self, found: IntArray, again: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> EncodedMasks:
        """Return the masks of the last launch, once its stream was waited for.

        Prototypes of images that had no room come with them, a copy each.

        Args:
            found: int (images,), rows of each image.
            again: Needed where the prototypes' memory serves others after the launch: within this
                context they are there again.
        """
        count = len(found)
        own = np.arange(self._buffers.limit) < np.asarray(found)[:, None]
        lengths = np.where(own, self._buffers.lengths.numpy()[:count], 0)
        sizes = np.maximum(lengths, 0).sum(axis=1).tolist()
        text = self._buffers.text.numpy()
        missing = np.flatnonzero((lengths == NOT_ENCODED).any(axis=1)).tolist()
        prototypes: dict[int, FloatArray] = {}
        if missing:
            with again():
                prototypes = {image: self._fetch(image) for image in missing}
        return EncodedMasks.of(
            lengths[own],
            b"".join([text[image, :size].tobytes() for image, size in enumerate(sizes)]),
            prototypes,
        )

    def _fetch(self, image: int) -> FloatArray:
        """Copy an image's prototypes to the host."""
        # laid out anew on the host: no memory of the device is needed for it
        return np.array(self._prototypes[image].cpu().numpy(), order="C")

    def _programs(self) -> int:
        """Return the programs of an image."""
        return max(1, PROGRAMS // self._batch)

    def _find(self, prototypes: Any, rows_at_a_time: int, *, write: bool) -> None:
        """Count changes, or write them."""
        b, programs = self._buffers, self._programs()
        find_changes[(self._batch, programs)](
            prototypes,
            b.rows,
            b.counts[0],
            b.geometry,
            b.first_row,
            b.boxes,
            b.columns,
            b.blocks,
            b.offsets,
            b.changes,
            b.rows.shape[1],
            b.limit,
            COLUMN_ROOM,
            CHANGE_ROOM,
            *self._grid,
            *prototypes.stride(),
            programs,
            WRITE=write,
            GEOMETRY=GEOMETRY,
            TILE=TILE,
            WINDOW=WINDOW,
            CHANNELS=prototypes.shape[1],
            CHUNK=rows_at_a_time,
            enable_fp_fusion=False,
        )


@lru_cache(maxsize=4096)
def _described(geometry: Geometry, grid: Size) -> NDArray[np.float64]:
    """Return the row of the geometry table that describes an image."""
    row = np.zeros(GEOMETRY)
    height, width = geometry.image
    vertical, horizontal = axes(geometry, grid)
    if height * width >= 2**31 or min(vertical.count, horizontal.count) < 1:
        return row  # the host's arithmetic is wider, and its errors are clearer
    gain_y, gain_x = geometry.gain
    row[:7] = 1, geometry.left, geometry.top, gain_x, gain_y, width, height
    row[7:11] = vertical.start, vertical.count, vertical.count / vertical.target, _step(vertical)
    row[10] = 1 << (int(row[10]).bit_length() - 1)  # steps shall fill a word
    row[11:15] = horizontal.start, horizontal.count, 0, _step(horizontal)
    row[13] = horizontal.count / horizontal.target
    row[15] = grid[0] / (vertical.factor * grid[0])
    return row


def _step(axis: Axis) -> int:
    """Return how many pixels in a row are sure to draw from no more than WINDOW prototype pixels.

    The last of n lies (n - 1) * count / target enlarged pixels behind the first. Rounding both down
    to a pixel adds one, the second pixel of an interpolation another; down to prototypes it is
    the same again.
    """
    most = ((WINDOW - 3) * axis.factor - 2) * axis.target // axis.count
    return min(TILE, 1 + max(0, most))
