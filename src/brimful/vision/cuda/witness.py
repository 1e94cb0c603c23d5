"""Witness marks: was an image really decoded, or did the engine only say so?

JPEG engines were seen to report images as decoded that they had skipped (MrNeRF/LichtFeld-Studio
PR 1924), and what lies in the memory is then an older image. So marks are put where the planes will
be, a few bytes in every sixteenth row, and looked for afterwards: a row that still has all of its
marks was not written.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from brimful.vision.cuda.kernel import kernel
from brimful.vision.cuda.ycc import COLUMNS

STRIPE = 16
"""Rows of luma that share a marked one: a row of blocks at the coarsest sampling."""

MARKS = 32
"""Bytes marked in a row: no picture has them all by chance."""


def mark(table: Any, *, count: int, height: int) -> None:
    """Put marks where images will be decoded to, on the current stream.

    Args:
        table: int64 (at least count, ycc.COLUMNS) on the device, rows as `ycc.describe` fills them.
        count: Rows of the table to read.
        height: That no image exceeds.
    """
    _mark[(count, triton.cdiv(height, STRIPE))](
        table, COLUMNS=COLUMNS, STRIPE=STRIPE, MARKS=MARKS, num_warps=1
    )


def find_unwritten(table: Any, flags: Any, *, count: int, height: int) -> None:
    """Set a flag for every image of which a marked row was not written, on the current stream.

    Args:
        table: As it was for `mark`.
        flags: int32 (at least count,), zeros, memory that the device can write: of an image whose
            rows were all written it stays 0.
        count: Rows of the table to read.
        height: As it was for `mark`.
    """
    _find_unwritten[(count, triton.cdiv(height, STRIPE))](
        table, flags, COLUMNS=COLUMNS, STRIPE=STRIPE, MARKS=MARKS, num_warps=1
    )


@kernel
def _places(
    table: tl.tensor, COLUMNS: tl.constexpr, STRIPE: tl.constexpr, MARKS: tl.constexpr
) -> tl.tensor:
    """Return where a stripe's marks are, which of them exist, and their values."""
    entry = table + tl.program_id(0) * COLUMNS
    luma = tl.load(entry).to(tl.pointer_type(tl.uint8))
    pitch = tl.load(entry + 4)
    height = tl.load(entry + 7)
    width = tl.load(entry + 8)
    stripe = tl.program_id(1)
    mark = tl.arange(0, MARKS)
    row = tl.minimum(stripe * STRIPE + STRIPE // 2, height - 1)
    # A narrow image has fewer marks, side by side.
    column = tl.where(width < MARKS, mark, mark * width // MARKS)
    first = stripe * STRIPE + tl.zeros((MARKS,), tl.int32)
    real = (mark < width) & (first < height)
    value = (mark * 73 + stripe * 151 + 41) & 255
    return luma + row * pitch + column, real, value


@kernel
def _mark(
    table: tl.tensor, COLUMNS: tl.constexpr, STRIPE: tl.constexpr, MARKS: tl.constexpr
) -> None:
    """Mark a stripe; program ids are (table row, stripe)."""
    place, real, value = _places(table, COLUMNS, STRIPE, MARKS)
    tl.store(place, value.to(tl.uint8), mask=real)


@kernel
def _find_unwritten(
    table: tl.tensor,
    flags: tl.tensor,
    COLUMNS: tl.constexpr,
    STRIPE: tl.constexpr,
    MARKS: tl.constexpr,
) -> None:
    """Flag an image if a stripe has all of its marks; program ids are (table row, stripe)."""
    place, real, value = _places(table, COLUMNS, STRIPE, MARKS)
    found = tl.load(place, mask=real, other=0).to(tl.int32)
    marks = tl.sum(real.to(tl.int32), 0)
    left = tl.sum((real & (found == value)).to(tl.int32), 0)
    if (marks > 0) & (left == marks):
        tl.store(flags + tl.program_id(0), 1)
