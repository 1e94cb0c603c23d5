"""Planar YCbCr on the GPU, as JPEG engines write it, into interleaved BGR, in one launch.

The pixels are those of libjpeg-turbo's slow and exact way, which is the CPU decoder's, given the
same planes: chroma is upsampled with its triangle filter ("fancy upsampling": three quarters of
the nearer sample and one of the farther, in each direction that is subsampled, rounded up and down
by turns), and converted after JFIF 1.02 in fixed point of 16 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from brimful.spec import Size
from brimful.vision.cuda.kernel import kernel

COLUMNS = 11
"""Numbers that describe an image, one row of the table: addresses of Y, Cb, Cr and of the BGR
pixels; pitches of Y, of both chroma planes and of the pixels; height, width; pixels per chroma
sample, horizontal and vertical."""

TILE_ROWS = 8
TILE_GROUPS = 32
"""What a program writes: rows, and of each as many groups of four pixels. Four, because they are
one word of Y and three words of BGR."""

NARROW = tl.constexpr(2)
"""Chroma columns up to which libjpeg-turbo repeats samples instead of filtering them, where they
are subsampled horizontally."""

# What JFIF's factors are in 1/65536; 1.402, 1.772, 0.34414 and 0.71414.
RED = tl.constexpr(91881)
BLUE = tl.constexpr(116130)
GREEN_BLUE = tl.constexpr(22554)
GREEN_RED = tl.constexpr(46802)


def to_bgr(table: Any, *, count: int, size: Size) -> None:
    """Convert images from planes of full-range YCbCr to interleaved BGR.

    Launches one kernel on the current stream of the current device, which must be the table's.
    Nothing is allocated and nothing waits. The planes must stay alive until the kernel has run.

    Args:
        table: int64 (at least count, COLUMNS) on the device, rows as `describe` fills them. A row
            whose height is 0 is skipped.
        count: Rows of the table to read, at most 65,535.
        size: (height, width) that no image of the batch exceeds: pixels beyond stay unwritten.

    Raises:
        ValueError: The table has not the documented type or layout, or the size is negative.
    """
    if table.dtype != torch.int64 or table.ndim != 2 or not table.is_contiguous():
        raise ValueError(f"expected a contiguous int64 table, got {table.dtype} {table.shape}")
    if table.shape[1] != COLUMNS or not 0 <= count <= table.shape[0]:
        raise ValueError(
            f"expected a table of at least {count} rows of {COLUMNS}, got {tuple(table.shape)}"
        )
    height, width = size
    if height < 0 or width < 0:
        raise ValueError(f"expected the largest (height, width) of the images, got {size}")
    grid = (triton.cdiv(width, 4 * TILE_GROUPS), triton.cdiv(height, TILE_ROWS), count)
    if 0 in grid:
        return
    _to_bgr[grid](table, COLUMNS=COLUMNS, ROWS=TILE_ROWS, GROUPS=TILE_GROUPS, num_warps=4)


def describe(
    entry: NDArray[np.int64],
    planes: tuple[int, int, int],
    pixels: int,
    pitches: tuple[int, int, int],
    size: Size,
    sampling: tuple[int, int],
) -> None:
    """Fill one row of a table on the host.

    Addresses may be counted from anything, to be added to columns 0 to 3 later, if that is a
    multiple of 4 as well.

    Args:
        entry: int64 (COLUMNS,), the row, overwritten.
        planes: Device addresses of Y, Cb and Cr, uint8. That of Y is a multiple of 4. Chroma
            planes have as many rows and columns as it takes to cover the image.
        pixels: Device address of the output, uint8 (height, width, 3) BGR, a multiple of 4.
        pitches: Bytes from row to row of Y, of both chroma planes and of the output; the first and
            the last are multiples of 4. Y is read and the output is written in whole words: what
            lies between a row's end and the next multiple of 4 is overwritten.
        size: (height, width) of the image in pixels.
        sampling: Pixels per chroma sample, (horizontal, vertical), 1 or 2 each: (2, 2) is 4:2:0,
            (2, 1) is 4:2:2, (1, 2) is 4:4:0, (1, 1) is 4:4:4.

    Raises:
        ValueError: The sampling is another one, an address or a pitch is not a multiple of 4, or a
            pitch is shorter than a row.
    """
    (height, width), (across, down) = size, sampling
    if across not in (1, 2) or down not in (1, 2):
        raise ValueError(
            f"expected 1 or 2 pixels per chroma sample, (horizontal, vertical), got {sampling}"
        )
    if height < 1 or width < 1:
        raise ValueError(f"expected a (height, width) of at least one pixel, got {size}")
    words = planes[0], pixels, pitches[0], pitches[2]
    if any(value % 4 for value in words):
        raise ValueError(
            "expected multiples of 4 for the addresses of Y and of the output and for their "
            f"pitches, got {words}"
        )
    shortest = width, -(-width // across), 3 * width
    if any(pitch < least for pitch, least in zip(pitches, shortest, strict=True)):
        raise ValueError(f"expected pitches of at least {shortest} bytes, got {pitches}")
    entry[:] = (*planes, pixels, *pitches, height, width, across, down)


@kernel
def _to_bgr(
    table: tl.tensor, COLUMNS: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr
) -> None:
    """Write ROWS x 4 GROUPS pixels; program ids are (groups, rows, table row)."""
    entry = table + tl.program_id(2) * COLUMNS
    height = tl.load(entry + 7).to(tl.int32)
    width = tl.load(entry + 8).to(tl.int32)
    first_row = tl.program_id(1) * ROWS
    first_group = tl.program_id(0) * GROUPS
    if (first_row >= height) | (first_group * 4 >= width):
        return
    luma = tl.load(entry).to(tl.pointer_type(tl.int32))
    blue = tl.load(entry + 1).to(tl.pointer_type(tl.uint8))
    red = tl.load(entry + 2).to(tl.pointer_type(tl.uint8))
    pixels = tl.load(entry + 3).to(tl.pointer_type(tl.int32))
    luma_pitch = tl.load(entry + 4)
    chroma_pitch = tl.load(entry + 5)
    pitch = tl.load(entry + 6)
    halved_across = tl.load(entry + 9) == 2
    halved_down = tl.load(entry + 10) == 2

    # Beyond an edge the last row and column are read again: every address is one of the image's.
    line = first_row + tl.arange(0, ROWS)[:, None]
    column = first_group + tl.arange(0, GROUPS)[None, :]
    y = tl.minimum(line, height - 1)
    group = tl.minimum(column, (width - 1) // 4)
    word = tl.load(luma + y.to(tl.int64) * (luma_pitch // 4) + group)

    # Of the four columns read, 0 to 3, pixels 0 to 3 are nearest to 1, 1, 2, 2 and next to
    # 0, 2, 1, 3 where chroma is halved across; else they are at 0, 1, 2, 3, and alone.
    last_column = tl.where(halved_across, (width + 1) // 2, width) - 1
    last_row = tl.where(halved_down, (height + 1) // 2, height) - 1
    two_rows = tl.where(halved_down, y, -1) >= 0
    repeated = halved_across & (last_column < NARROW)
    nearest = tl.where(halved_down, y // 2, y)
    next_row = tl.where(halved_down, nearest + (y & 1) * 2 - 1, nearest)
    next_row = tl.minimum(tl.maximum(next_row, 0), last_row)
    near_row = nearest.to(tl.int64) * chroma_pitch
    far_row = next_row.to(tl.int64) * chroma_pitch
    left = tl.where(halved_across, group * 2 - 1, group * 4)

    # A sample has a weight of 1, or of 4 shared with its neighbour, in each direction.
    near_down = tl.where(halved_down, tl.where(repeated, 4, 3), 1)
    far_down = tl.where(halved_down & (near_down == 3), 1, 0)
    near_across = tl.where(halved_across, tl.where(repeated, 4, 3), 1)
    far_across = tl.where(halved_across & (near_across == 3), 1, 0)
    shift = tl.where(halved_across, 2, 0) + tl.where(halved_down, 2, 0)
    # Halves are rounded up and down by turns: from row to row, or from column to column.
    by_row = tl.where(halved_down, 1 + (y & 1), 0)
    even = tl.where(halved_across, tl.where(halved_down, 8, 1), by_row)
    odd = tl.where(halved_across, tl.where(halved_down, 7, 2), by_row)

    blue0, red0 = _sums(
        blue, red, near_row, far_row, left, last_column, near_down, far_down, two_rows
    )
    blue1, red1 = _sums(
        blue, red, near_row, far_row, left + 1, last_column, near_down, far_down, two_rows
    )
    blue2, red2 = _sums(
        blue, red, near_row, far_row, left + 2, last_column, near_down, far_down, two_rows
    )
    blue3, red3 = _sums(
        blue, red, near_row, far_row, left + 3, last_column, near_down, far_down, two_rows
    )
    b0, g0, r0 = _bgr(
        word & 255,
        (tl.where(halved_across, blue1, blue0) * near_across + blue0 * far_across + even) >> shift,
        (tl.where(halved_across, red1, red0) * near_across + red0 * far_across + even) >> shift,
    )
    b1, g1, r1 = _bgr(
        (word >> 8) & 255,
        (blue1 * near_across + blue2 * far_across + odd) >> shift,
        (red1 * near_across + red2 * far_across + odd) >> shift,
    )
    b2, g2, r2 = _bgr(
        (word >> 16) & 255,
        (blue2 * near_across + blue1 * far_across + even) >> shift,
        (red2 * near_across + red1 * far_across + even) >> shift,
    )
    b3, g3, r3 = _bgr(
        (word >> 24) & 255,
        (tl.where(halved_across, blue2, blue3) * near_across + blue3 * far_across + odd) >> shift,
        (tl.where(halved_across, red2, red3) * near_across + red3 * far_across + odd) >> shift,
    )

    words = tl.where(line < height, (width * 3 + 3) // 4, 0) - column * 3
    target = pixels + line.to(tl.int64) * (pitch // 4) + column * 3
    tl.store(target, b0 | (g0 << 8) | (r0 << 16) | (b1 << 24), mask=words > 0)
    tl.store(target + 1, g1 | (r1 << 8) | (b2 << 16) | (g2 << 24), mask=words > 1)
    tl.store(target + 2, r2 | (b3 << 8) | (g3 << 16) | (r3 << 24), mask=words > 2)


@kernel
def _sums(
    blue: tl.tensor,
    red: tl.tensor,
    near_row: tl.tensor,
    far_row: tl.tensor,
    column: tl.tensor,
    last_column: tl.tensor,
    near_down: tl.tensor,
    far_down: tl.tensor,
    two_rows: tl.tensor,
) -> tl.tensor:
    """Return the weighted sums of two rows of Cb and of Cr, at a column of theirs."""
    column = tl.minimum(tl.maximum(column, 0), last_column)
    near, far = near_row + column, far_row + column
    blue_near = tl.load(blue + near).to(tl.int32)
    red_near = tl.load(red + near).to(tl.int32)
    blue_far = tl.load(blue + far, mask=two_rows, other=0).to(tl.int32)
    red_far = tl.load(red + far, mask=two_rows, other=0).to(tl.int32)
    return blue_near * near_down + blue_far * far_down, red_near * near_down + red_far * far_down


@kernel
def _bgr(luma: tl.tensor, blue: tl.tensor, red: tl.tensor) -> tl.tensor:
    """Return the levels of a pixel, blue, green and red, as int32.

    Chroma is centred at 128, which goes into the constants, as does the rounding.
    """
    luma = (luma << 16) + 32768
    b = (luma + (blue * BLUE - BLUE * 128)) >> 16
    g = (luma - (blue * GREEN_BLUE + red * GREEN_RED - (GREEN_BLUE + GREEN_RED) * 128)) >> 16
    r = (luma + (red * RED - RED * 128)) >> 16
    return _level(b), _level(g), _level(r)


@kernel
def _level(value: tl.tensor) -> tl.tensor:
    """Return a value as a level, 0 to 255."""
    return tl.minimum(tl.maximum(value, 0), 255)
