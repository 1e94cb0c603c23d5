"""Planar 4:2:0 on the GPU, as video decoders on CPUs write it, into interleaved BGR.

The frames of a batch, of any sizes and colour matrices, take one launch. The arithmetic is that of
`nv12.py`, and so are the pixels: for this format PyAV (swscale on x86) gives them to the last bit.
What it gives for NV12 is another thing: there it interpolates chroma.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl
from numpy.typing import NDArray

from brimful.cuda.kernel import kernel
from brimful.cuda.table import check_table
from brimful.spec import Size
from brimful.vision.cuda.nv12 import (
    TILE_GROUPS,
    TILE_ROWS,
    Colour,
    pitch_of,
    store_pixels,
)

COLUMNS = 16
"""Numbers that describe a frame, one row of the table: addresses of Y, Cb, Cr and the output, words
from row to row of Y, pairs of bytes from row to row of Cb and Cr, words from row to row of the
output, height, width, the six factors of `Colour`, and one that is not used."""

ADDRESSES = slice(0, 4)
"""Columns of the addresses: of the three planes, and of the output."""


def describe(entry: NDArray[np.int64], pitches: tuple[int, int], size: Size, c: Colour) -> None:
    """Fill one row of a table on the host but for the addresses, which are set to 0.

    The planes' addresses must be multiples of 4. Whole words of luma are read, so a row is as long
    in memory as the next multiple of 4. The output's must be a multiple of 4: rows of BGR,
    `nv12.pitch_of(width)` bytes apart. What lies between a row's end and the next multiple of 4 is
    overwritten.

    Args:
        entry: int64 (COLUMNS,), the row, overwritten.
        pitches: Bytes from row to row of Y, and of Cb and Cr; multiples of 4.
        size: (height, width) in pixels, both even.
        c: The factors.

    Raises:
        ValueError: Sizes or pitches are not as documented.
    """
    height, width = size
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise ValueError(f"expected an even (height, width) of at least 2, got {size}")
    luma, chroma = pitches
    if luma % 4 or chroma % 4 or luma < width or 2 * chroma < width:
        raise ValueError(
            f"expected pitches in multiples of 4 for rows of {width} and {width // 2} bytes, "
            f"got {pitches}"
        )
    words = luma // 4, chroma // 2, pitch_of(width) // 4
    factors = c.luma, c.red, c.blue, c.green_red, c.green_blue, c.black
    entry[:] = (0, 0, 0, 0, *words, height, width, *factors, 0)


def to_bgr(table: Any, *, count: int, largest: Size) -> None:
    """Convert frames to interleaved BGR.

    Launches one kernel on the current stream of the table's device, which must be the current one.
    Nothing is allocated and nothing waits. The planes must stay until the kernel has run.

    Args:
        table: int64 (at least count, COLUMNS) on the device, rows as `describe` fills them, with
            addresses.
        count: Rows of the table to read.
        largest: The largest height and the largest width of the frames.

    Raises:
        ValueError: The table has not the documented type or size.
    """
    check_table(table, COLUMNS, count)
    if count == 0:
        return
    height, width = largest
    grid = (triton.cdiv(width, 4 * TILE_GROUPS), triton.cdiv(height, TILE_ROWS), count)
    _planes_to_bgr[grid](
        table,
        COLUMNS=COLUMNS,
        ROWS=TILE_ROWS,
        GROUPS=TILE_GROUPS,
        num_warps=4,
        enable_fp_fusion=False,
    )


@kernel
def _planes_to_bgr(
    table: tl.tensor, COLUMNS: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr
) -> None:
    """Write ROWS x 4 GROUPS pixels of a frame; program ids are (groups, rows, table row)."""
    entry = table + tl.program_id(2) * COLUMNS
    height = tl.load(entry + 7).to(tl.int32)
    width = tl.load(entry + 8).to(tl.int32)
    first = tl.program_id(1) * ROWS
    left = tl.program_id(0) * GROUPS
    if (first >= height) | (left * 4 >= width):  # the grid is that of the largest frame
        return
    from_luma = tl.load(entry).to(tl.pointer_type(tl.int32))
    from_blue = tl.load(entry + 1).to(tl.pointer_type(tl.int16))
    from_red = tl.load(entry + 2).to(tl.pointer_type(tl.int16))
    out = tl.load(entry + 3).to(tl.pointer_type(tl.int32))
    # Beyond an edge the last row and group are read again: every address is one of the frame's.
    line = first + tl.arange(0, ROWS)[:, None]
    column = left + tl.arange(0, GROUPS)[None, :]
    y = tl.minimum(line, height - 1)
    group = tl.minimum(column, (width - 1) // 4)
    four = tl.load(from_luma + y.to(tl.int64) * tl.load(entry + 4) + group)
    pair = (y // 2).to(tl.int64) * tl.load(entry + 5) + group
    blue_pair = tl.load(from_blue + pair).to(tl.int32)
    red_pair = tl.load(from_red + pair).to(tl.int32)
    room = tl.where(line < height, (width * 3 + 3) // 4, 0) - column * 3
    target = out + line.to(tl.int64) * tl.load(entry + 6) + column * 3
    store_pixels(
        target, room, four, blue_pair, red_pair, blue_pair >> 8, red_pair >> 8,
        tl.load(entry + 9).to(tl.int32),
        tl.load(entry + 10).to(tl.int32),
        tl.load(entry + 11).to(tl.int32),
        tl.load(entry + 12).to(tl.int32),
        tl.load(entry + 13).to(tl.int32),
        tl.load(entry + 14).to(tl.int32),
    )  # fmt: skip
