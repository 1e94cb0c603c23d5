"""JPEG decode on the GPU: whole batches of files onto their canvases, in three launches.

The pixels are those of the CPU's path, to the last bit: libjpeg-turbo's slow and exact method, then
`brimful.vision.letterbox`. What libjpeg-turbo warns of is not decoded. The folder `jpeg` says how
it works. NVIDIA's own library was here before: it asks the driver for four copies an image, 35 us
of a CPU, which was what limited; it has engines on few GPUs, which ignore their stream and report
no damage (benchmarks/NOTES.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from brimful.cuda.module import CudaModule
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header

GOOD, UNSUPPORTED, DAMAGED = range(3)
"""What became of an image."""

COLUMNS = 20
"""Numbers that describe an image, one row of the table: see `jpeg/types.cu`."""

ADDRESSES, FILE, CANVAS = slice(0, 4), slice(10, 12), 17
"""Columns that depend on where an image is: addresses of its planes and of room for work, the
file's address and bytes, and the row of the batch."""

QUANTISERS = 3 * 64 * 2
"""Bytes of the quantisation tables, which are kept behind the pairs and the blocks' records."""

ALIGNMENT = 16
"""Of a file in the device's memory, in bytes."""

SOURCES = tuple(
    Path(__file__).with_suffix("") / f"{name}.cu"
    for name in (
        *("types", "pairs", "segments", "bits", "scan", "dc", "transform"),
        *("pixels", "groups", "stretch", "place", "kernels"),
    )
)
"""The kernels' files, which are one source."""

_SAMPLINGS = ((1, 1), (2, 1), (1, 2), (2, 2))
_SCAN_THREADS, _THREADS = 256, 256
LARGE, _LARGE_SCAN_THREADS = 128 * 2**10, 512
"""Mean bytes of files from which on more threads read each: it takes half as long then. For smaller
ones more threads only take more room from the model's kernels."""

_CARVEOUT = 50
"""Per cent of a multiprocessor's memory that is shared memory: room for a few blocks, where there
is seldom more than one. A network's kernels beside it are faster for the cache that is left
(benchmarks/NOTES.md)."""

_SAMPLES, _PIXELS, _LINES = 64 // 8 * 4, 8, 8
"""What a thread writes: samples of planes, and columns and rows of canvases."""

_TYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def work_bytes(decoded: int) -> int:
    """Return the bytes that decoding takes beside so many bytes of planes."""
    records = -(-(decoded // 64 + 1) // 2) * 2
    return 2 * (decoded + _LARGE_SCAN_THREADS) + 8 * records + QUANTISERS


def describe(
    entry: NDArray[np.int64],
    header: Header,
    geometry: Geometry,
    addresses: tuple[int, int, int, int],
    pitches: tuple[int, int],
) -> None:
    """Fill one row of a table, but for what `FILE` and `CANVAS` name.

    Args:
        entry: int64 (COLUMNS,), the row, overwritten.
        header: Of the image; `JpegDecoder.takes` it.
        geometry: Where the upright image goes.
        addresses: Of the planes of Y, Cb and Cr, which hold whole MCUs and follow each other
            without a gap, and of `work_bytes`, multiples of 16. They may be counted from anything,
            to be added to `ADDRESSES` later.
        pitches: Bytes from row to row of Y and of both chroma planes, multiples of 8; the latter 0
            of a gray image.
    """
    assert header.stored is not None
    (height, width), resized = geometry.image, geometry.resized
    # OpenCV inverts the ratio twice, and so must we, to the last bit
    scales = np.array((1 / (resized[0] / height), 1 / (resized[1] / width)), np.float64)
    file = 0, 0
    entry[:18] = (
        *addresses,
        *pitches,
        *header.stored,
        *(header.sampling or (1, 1)),
        *file,
        header.orientation,
        *resized,
        geometry.top,
        geometry.left,
        0,
    )
    entry[18:] = scales.view(np.int64)


class JpegDecoder:
    """The kernels on one device. Any thread may queue them on its stream."""

    def __init__(self, device: Any) -> None:
        """Compile, once a machine, and load.

        Args:
            device: CUDA device, the current one.

        Raises:
            RuntimeFailedError: The run-time compiler is missing.
            UsageError: The artifact cache cannot be written.
        """
        self._module = CudaModule("jpeg", SOURCES, device)
        self._read_scans = self._module.kernel("read_scans", carveout=_CARVEOUT)
        defines = [f"THREADS={_LARGE_SCAN_THREADS}"]
        self._large = CudaModule("jpeg", SOURCES, device, defines=defines)
        self._read_large_scans = self._large.kernel("read_scans", carveout=_CARVEOUT)
        self._transform_blocks = self._module.kernel("transform_blocks")
        self._place_images = self._module.kernel("place_images")

    @staticmethod
    def takes(header: Header) -> bool:
        """Whether such an image can be decoded here: a baseline JPEG in YCbCr, or a gray one.

        What else its segments say is found out on the device, where `decode` refuses it.
        """
        return (
            header.baseline
            and header.sound
            and (header.components == 1 or header.sampling in _SAMPLINGS)
        )

    def decode(
        self, images: Any, statuses: Any, told: Any, *, count: int, most: int, mean: int
    ) -> None:
        """Queue the decoding of images to planes on the current stream. Nothing waits.

        Args:
            images: int64 (at least count, COLUMNS) on the device, rows as `describe` fills them.
                Files begin at multiples of `ALIGNMENT`, on the device, and what is behind one up to
                the next multiple can be read.
            statuses: int32 (at least count,) on the device, gets `GOOD`, `UNSUPPORTED` or `DAMAGED`
                for each image. The planes of one that is not `GOOD` are undefined.
            told: The same again, in pinned memory.
            count: Images, at most 65,535.
            most: Bytes of planes that no image of the batch exceeds.
            mean: Bytes of a file, about.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        addresses = images.data_ptr(), statuses.data_ptr(), told.data_ptr()
        if mean < LARGE:
            self._read_scans((count, 1), _SCAN_THREADS, *addresses)
        else:
            self._read_large_scans((count, 1), _LARGE_SCAN_THREADS, *addresses)
        self._transform_blocks((-(-most // (_SAMPLES * _THREADS)), count), _THREADS, *addresses)

    def place(self, images: Any, statuses: Any, out: Any, *, count: int) -> None:
        """Queue what resizes images onto their canvases, on the current stream.

        They are normalised to 0..1, and the rest is filled with gray. Nothing waits.

        Args:
            images: As `decode` had it.
            statuses: Likewise; an image that is not `GOOD` is skipped.
            out: fp16, bf16 or fp32 (batch, 3, height, width) RGB, contiguous in
                torch.channels_last. Every value of the rows named in the table is written.
            count: Images.

        Raises:
            ValueError: `out` has not the documented type or layout.
            RuntimeFailedError: The driver refuses.
        """
        if out.ndim != 4 or out.shape[1] != 3 or out.dtype not in _TYPES:
            raise ValueError(
                "expected an `out` of fp16, bf16 or fp32 (batch, 3, height, width), got "
                f"{out.dtype} {tuple(out.shape)}"
            )
        if not out.is_contiguous(memory_format=torch.channels_last):
            raise ValueError("expected an `out` that is contiguous in torch.channels_last")
        height, width = out.shape[2:]
        threads = -(-width // _PIXELS) * -(-height // _LINES)
        addresses = images.data_ptr(), statuses.data_ptr(), out.data_ptr()
        shape = height, width, _TYPES[out.dtype]
        self._place_images((-(-threads // _THREADS), count), _THREADS, *addresses, *shape)

    def close(self) -> None:
        """Free the kernels; none may be in flight."""
        self._module.close()
        self._large.close()
