"""Letterbox on the GPU: images of any size and memory layout into a network's input, in one launch.

The pixels are those of the CPU path (`brimful.vision.letterbox`), which resizes with OpenCV:
`cv2.resize` with INTER_LINEAR of uint8 works in fixed point, with weights of 11 bits, and so does
this kernel. An image that needs no resize is copied exactly.

Where the source lies in memory is a pointer and three strides, so BGR or RGB, interleaved or
planar, rotated or mirrored by EXIF, and gray for a colour model are all read in place.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from brimful.cuda.kernel import kernel
from brimful.cuda.table import check_table
from brimful.spec import Size
from brimful.vision.geometry import PAD_VALUE, Geometry

COLUMNS = 13
"""Numbers that describe a source, one row of the table: pointer, stride_y, stride_x, stride_c,
height, width, resized height, resized width, top, left, row of `out`, and the source pixels per
canvas pixel, vertical and horizontal, as the bits of two float64."""

TILE_ROWS = 8
TILE_VALUES = 512
"""What a program writes: canvas rows, and of each as many values (pixels times channels)."""

Upright = tuple[int, int, int, int, int]
"""(pointer, stride_y, stride_x, height, width)."""


def letterbox(table: Any, out: Any, *, count: int) -> None:
    """Resize images onto their canvas, normalise them to 0..1 and fill the rest with gray.

    Launches one kernel on the current stream of `out`'s device, which must be the current device.
    Nothing is allocated and nothing waits, so a CUDA graph can capture it after a first launch
    outside (which compiles). The sources must stay alive until the kernel has run.

    Args:
        table: int64 (at least count, COLUMNS) on the device, rows as `describe` fills them. A row
            whose row of `out` is negative is skipped, so that a captured launch can cover fewer.
        out: fp16, bf16 or fp32 (batch, channels, height, width), 3 channels in the order of the
            sources' stride_c (RGB) or 1, contiguous in torch.channels_last. Every value of the
            rows named in the table is written.
        count: Rows of the table to read.

    Raises:
        ValueError: A tensor has not the documented type or layout.
    """
    types = (torch.float16, torch.bfloat16, torch.float32)
    if out.ndim != 4 or out.shape[1] not in (1, 3) or out.dtype not in types:
        raise ValueError(
            "expected an `out` of fp16, bf16 or fp32 (batch, 1 or 3, height, width), got "
            f"{out.dtype} {tuple(out.shape)}"
        )
    if not out.is_contiguous(memory_format=torch.channels_last):
        raise ValueError("expected an `out` that is contiguous in torch.channels_last")
    check_table(table, COLUMNS, count)
    if count == 0:
        return
    _, channels, height, width = out.shape
    pitch = width * channels
    grid = (triton.cdiv(pitch, TILE_VALUES), triton.cdiv(height, TILE_ROWS), count)
    _letterbox[grid](
        table,
        out,
        height,
        pitch,
        height * pitch,
        COLUMNS=COLUMNS,
        CHANNELS=channels,
        PAD=PAD_VALUE,
        ROWS=TILE_ROWS,
        VALUES=TILE_VALUES,
        num_warps=4,
        # A fused multiply-add would round a source position differently than OpenCV does.
        enable_fp_fusion=False,
    )


def describe(
    entry: NDArray[np.int64],
    pointer: int,
    strides: tuple[int, int, int],
    geometry: Geometry,
    row: int,
) -> None:
    """Fill one row of a table on the host.

    Args:
        entry: int64 (COLUMNS,), the row, overwritten.
        pointer: Device address of the first sample of the first channel (red, or gray) of the
            upright image's top left pixel.
        strides: Bytes from a sample to the one below, to its right, and of the next channel
            (green, blue). They may be negative; the last is 0 for a gray image that a colour
            model sees.
        geometry: Where the upright image goes.
        row: Row of `out` that gets it, or -1 for a row of the table to be skipped.
    """
    (height, width), (resized_height, resized_width) = geometry.image, geometry.resized
    # OpenCV inverts the ratio twice, and so must we, to the last bit
    scales = np.array((1 / (resized_height / height), 1 / (resized_width / width)), np.float64)
    entry[:11] = (
        pointer,
        *strides,
        height,
        width,
        resized_height,
        resized_width,
        geometry.top,
        geometry.left,
        row,
    )
    entry[11:] = scales.view(np.int64)


def upright(orientation: int, size: Size, pointer: int, strides: tuple[int, int]) -> Upright:
    """Return how to read an image as it is meant to be seen, without moving a pixel.

    Args:
        orientation: EXIF orientation, 1 to 8 (6: stored lying on its left side, and so on).
        size: (height, width) as stored.
        pointer: Address of the first stored pixel.
        strides: Bytes from a stored pixel to the one below and to the one at its right.

    Returns:
        Pointer, stride_y, stride_x, height and width of the upright image.

    Raises:
        ValueError: There is no such orientation.
    """
    if not 1 <= orientation <= 8:
        raise ValueError(f"expected an EXIF orientation of 1 to 8, got {orientation}")
    (height, width), (down, right) = size, strides
    if orientation in (3, 4, 6, 7):  # the upright image starts in the last stored row
        pointer, down = pointer + (height - 1) * down, -down
    if orientation in (2, 3, 7, 8):  # and in the last stored column
        pointer, right = pointer + (width - 1) * right, -right
    if orientation >= 5:  # stored columns are upright rows
        return pointer, right, down, width, height
    return pointer, down, right, height, width


@kernel
def _letterbox(
    table: tl.tensor,
    out: tl.tensor,
    height: tl.tensor,
    pitch: tl.tensor,
    image_values: tl.tensor,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PAD: tl.constexpr,
    ROWS: tl.constexpr,
    VALUES: tl.constexpr,
) -> None:
    """Write ROWS x VALUES of one canvas; program ids are (values, rows, table row)."""
    entry = table + tl.program_id(2) * COLUMNS
    row = tl.load(entry + 10)
    if row < 0:
        return
    source = tl.load(entry).to(tl.pointer_type(tl.uint8))
    stride_y = tl.load(entry + 1)
    stride_x = tl.load(entry + 2)
    stride_c = tl.load(entry + 3)
    source_height = tl.load(entry + 4).to(tl.int32)
    source_width = tl.load(entry + 5).to(tl.int32)
    resized_height = tl.load(entry + 6).to(tl.int32)
    resized_width = tl.load(entry + 7).to(tl.int32)
    top = tl.load(entry + 8).to(tl.int32)

    value = tl.program_id(0) * VALUES + tl.arange(0, VALUES)
    column = value // CHANNELS
    channel = (value - column * CHANNELS).to(tl.int64) * stride_c
    x = column - tl.load(entry + 9).to(tl.int32)
    first = tl.program_id(1) * ROWS
    last = tl.minimum(first + ROWS, height)
    target = out + row * image_values + value

    if (resized_height == source_height) & (resized_width == source_width):
        from_column = x.to(tl.int64) * stride_x + channel
        # Four rows at a time: no load can go before a store, for all the compiler knows of them.
        for line in range(first, last, 4):
            y = line - top
            rows = tl.where(value < pitch, last - line, 0)
            one = _row(
                source, y + 0, stride_y, resized_height, from_column, x, resized_width, PAD
            )  # fmt: skip
            two = _row(
                source, y + 1, stride_y, resized_height, from_column, x, resized_width, PAD
            )  # fmt: skip
            three = _row(
                source, y + 2, stride_y, resized_height, from_column, x, resized_width, PAD
            )  # fmt: skip
            four = _row(
                source, y + 3, stride_y, resized_height, from_column, x, resized_width, PAD
            )  # fmt: skip
            place = target + line * pitch
            tl.store(place, _level(one, out), mask=rows > 0)
            tl.store(place + pitch, _level(two, out), mask=rows > 1)
            tl.store(place + 2 * pitch, _level(three, out), mask=rows > 2)
            tl.store(place + 3 * pitch, _level(four, out), mask=rows > 3)
    else:
        left, weight_left, weight_right = _taps(x, tl.load(entry + 12))
        # Beyond an edge OpenCV repeats rows with the weights as they are, but of columns it takes
        # the last one alone. The sums are rounded down, so the difference can be seen.
        alone = (left < 0) | (left >= source_width - 1)
        weight_left = tl.where(alone, 2048, weight_left)
        weight_right = tl.where(alone, 0, weight_right)
        left = tl.minimum(tl.maximum(left, 0), source_width - 1)
        right = tl.where(alone, left, left + 1)
        from_left = left.to(tl.int64) * stride_x + channel
        from_right = right.to(tl.int64) * stride_x + channel
        scale_y = tl.load(entry + 11)
        for line in range(first, last):
            y = line - top
            upper, weight_upper, weight_lower = _taps(y, scale_y)
            lower = tl.minimum(tl.maximum(upper + 1, 0), source_height - 1)
            upper = tl.minimum(tl.maximum(upper, 0), source_height - 1)
            width = tl.where((y >= 0) & (y < resized_height), resized_width, 0)
            inside = (x >= 0) & (x < width)
            from_upper = source + upper.to(tl.int64) * stride_y
            from_lower = source + lower.to(tl.int64) * stride_y
            upper_left = tl.load(from_upper + from_left, mask=inside, other=0).to(tl.int32)
            upper_right = tl.load(from_upper + from_right, mask=inside, other=0).to(tl.int32)
            lower_left = tl.load(from_lower + from_left, mask=inside, other=0).to(tl.int32)
            lower_right = tl.load(from_lower + from_right, mask=inside, other=0).to(tl.int32)
            above = upper_left * weight_left + upper_right * weight_right
            below = lower_left * weight_left + lower_right * weight_right
            above = (weight_upper * (above >> 4)) >> 16
            below = (weight_lower * (below >> 4)) >> 16
            pixel = tl.where(inside, (above + below + 2) >> 2, PAD)
            tl.store(target + line * pitch, _level(pixel, out), mask=value < pitch)


@kernel
def _row(
    source: tl.tensor,
    y: tl.tensor,
    stride_y: tl.tensor,
    height: tl.tensor,
    from_column: tl.tensor,
    x: tl.tensor,
    width: tl.tensor,
    PAD: tl.constexpr,
) -> tl.tensor:
    """Return values of a source row, and PAD where there is none."""
    width = tl.where((y >= 0) & (y < height), width, 0)
    inside = (x >= 0) & (x < width)
    from_row = source + y.to(tl.int64) * stride_y
    return tl.load(from_row + from_column, mask=inside, other=PAD).to(tl.int32)


@kernel
def _taps(position: tl.tensor, scale_bits: tl.tensor) -> tl.tensor:
    """Return the first of two source positions, and both weights in 1/2048.

    As OpenCV has it: the position in float64, rounded to float32 before it is split.
    """
    scale = scale_bits.to(tl.float64, bitcast=True)
    centre = ((position.to(tl.float64) + 0.5) * scale - 0.5).to(tl.float32)
    floor = tl.floor(centre)
    part = centre - floor
    # adding and taking away 1.5 * 2**23 rounds half to even
    first = ((1.0 - part) * 2048.0 + 12582912.0) - 12582912.0
    second = (part * 2048.0 + 12582912.0) - 12582912.0
    return floor.to(tl.int32), first.to(tl.int32), second.to(tl.int32)


@kernel
def _level(pixel: tl.tensor, out: tl.tensor) -> tl.tensor:
    """Return pixel / 255 in the type that `out` points to.

    The division is exact as far as the type goes, for each of the 256 values. In float32 one
    product is not enough: 257 / 65536 are the first two digits of 1/255 in base 256, so that the
    product with them has no error, and the other one no weight.
    """
    level = pixel.to(tl.float32)
    if out.dtype.element_ty == tl.float32:
        return level * 0.0039215087890625 + level * 5.983838848033773e-08
    return (level * 0.00392156862745098).to(out.dtype.element_ty)
