"""NV12 on the GPU, as video decoders write it, into interleaved BGR.

The pixels are those of FFmpeg's swscale on x86, which is what PyAV's `to_ndarray(format="bgr24")`
gives for the same 8-bit 4:2:0 frame of even sides, to the last bit: a chroma sample is repeated for
the four pixels it covers, and converted in 16-bit fixed point whose products are rounded down.
Interlaced frames and odd sides take other paths there and are not for this kernel.

Source of the matrices: Kr and Kb of ITU-T H.273, table 4 (MatrixCoefficients).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from brimful.cuda.kernel import kernel
from brimful.spec import Size

TILE_ROWS = 8
TILE_GROUPS = 32
"""What a program writes: rows, and of each as many groups of four pixels, which are a word of luma,
a word of chroma and three words of BGR."""

ROW_ALIGNMENT = 64
"""Bytes that the output's rows are rounded up to."""

_LUMA_WEIGHTS = {
    1: (0.2126, 0.0722),  # BT.709
    2: (0.299, 0.114),  # unspecified, which swscale takes for BT.601
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}
"""Kr and Kb by the number that H.273 gives a matrix; FFmpeg numbers them likewise."""

FULL_RANGE = 2
"""FFmpeg's number of the range 0 to 255; any other is taken for 16 to 235."""


@dataclass(frozen=True, slots=True)
class Colour:
    """Factors of a conversion, in 1/8192; samples are multiplied by 8 first.

    Attributes:
        luma: Of Y.
        red: Of Cr in red.
        blue: Of Cb in blue.
        green_red: Of Cr in green.
        green_blue: Of Cb in green.
        black: What is taken from 8 Y first.
    """

    luma: int
    red: int
    blue: int
    green_red: int
    green_blue: int
    black: int

    @staticmethod
    def of(matrix: int, value_range: int) -> Colour | None:
        """Return the factors of a frame's `colorspace` and `color_range`, None if unknown."""
        weights = _LUMA_WEIGHTS.get(matrix)
        if weights is None:
            return None
        kr, kb = weights
        kg = 1 - kr - kb
        # In steps of 1/65536, each one rounded as swscale has it, for limited range first.
        chroma = (
            _nearest(2 * (1 - kr) * 255 / 224 * 65536),
            _nearest(2 * (1 - kb) * 255 / 224 * 65536),
            _nearest(2 * kr * (1 - kr) / kg * 255 / 224 * 65536),
            _nearest(2 * kb * (1 - kb) / kg * 255 / 224 * 65536),
        )
        full = value_range == FULL_RANGE
        if full:
            chroma = (
                chroma[0] * 224 // 255,
                chroma[1] * 224 // 255,
                chroma[2] * 224 // 255,
                chroma[3] * 224 // 255,
            )
        luma = 65536 if full else 65536 * 255 // 219
        red, blue, green_red, green_blue = chroma
        return Colour(
            luma=_eighth(luma),
            red=_eighth(red),
            blue=_eighth(blue),
            green_red=_eighth(-green_red),
            green_blue=_eighth(-green_blue),
            black=0 if full else 16 * 8,
        )


def pitch_of(width: int) -> int:
    """Return the bytes from row to row of the output."""
    return -(-3 * width // ROW_ALIGNMENT) * ROW_ALIGNMENT


def to_bgr(
    luma: int, chroma: int, pitches: tuple[int, int], out: Any, *, size: Size, colour: Colour
) -> None:
    """Convert a frame from NV12 to interleaved BGR.

    Launches one kernel on the current stream of the current device, which must be `out`'s. Nothing
    is allocated and nothing waits. The planes must stay alive until the kernel has run.

    Args:
        luma: Device address of Y, uint8 (height, width); a multiple of 4.
        chroma: Device address of Cb and Cr, uint8 (height / 2, width / 2, 2); a multiple of 4.
        pitches: Bytes from row to row of both, multiples of 4. Whole words are read, so a row of
            luma is as long in memory as the next multiple of 4.
        out: uint8 (height, pitch_of(width)) on the device, contiguous: rows of BGR. What lies
            between a row's end and the next multiple of 4 is overwritten.
        size: (height, width) in pixels, both even.
        colour: The factors.

    Raises:
        ValueError: Something has not the documented size, type, or alignment.
    """
    height, width = size
    if height < 2 or width < 2 or height % 2 or width % 2:
        raise ValueError(f"expected an even (height, width) of at least 2, got {size}")
    if any(value % 4 for value in (luma, chroma, *pitches)):
        raise ValueError(
            f"expected addresses and pitches in multiples of 4, got {luma}, {chroma}, {pitches}"
        )
    if min(pitches) < width:
        raise ValueError(f"expected pitches of at least {width} bytes, got {pitches}")
    shape = (height, pitch_of(width))
    if out.dtype != torch.uint8 or tuple(out.shape) != shape or not out.is_contiguous():
        raise ValueError(
            f"expected a contiguous uint8 `out` {shape}, got {out.dtype} {tuple(out.shape)}"
        )
    grid = (triton.cdiv(width, 4 * TILE_GROUPS), triton.cdiv(height, TILE_ROWS))
    _nv12_to_bgr[grid](
        luma,
        chroma,
        out.view(torch.int32),
        pitches[0] // 4,
        pitches[1] // 4,
        shape[1] // 4,
        height,
        width,
        colour.luma,
        colour.red,
        colour.blue,
        colour.green_red,
        colour.green_blue,
        colour.black,
        ROWS=TILE_ROWS,
        GROUPS=TILE_GROUPS,
        num_warps=4,
        enable_fp_fusion=False,
    )


def _nearest(value: float) -> int:
    return int(value + 0.5)


def _eighth(value: int) -> int:
    """Return 1/65536 in 1/8192, to the nearest."""
    return (value * 8192 + 32768) >> 16


@kernel
def _nv12_to_bgr(
    luma: tl.tensor,
    chroma: tl.tensor,
    out: tl.tensor,
    luma_words: tl.tensor,
    chroma_words: tl.tensor,
    words: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    luma_factor: tl.tensor,
    red: tl.tensor,
    blue: tl.tensor,
    green_red: tl.tensor,
    green_blue: tl.tensor,
    black: tl.tensor,
    ROWS: tl.constexpr,
    GROUPS: tl.constexpr,
) -> None:
    """Write ROWS x 4 GROUPS pixels; program ids are (groups, rows)."""
    from_luma = luma.to(tl.int64).to(tl.pointer_type(tl.int32))
    from_chroma = chroma.to(tl.int64).to(tl.pointer_type(tl.int32))
    # Beyond an edge the last row and group are read again: every address is one of the frame's.
    line = tl.program_id(1) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)[None, :]
    y = tl.minimum(line, height - 1)
    group = tl.minimum(column, (width - 1) // 4)
    four = tl.load(from_luma + y.to(tl.int64) * luma_words + group)
    two = tl.load(from_chroma + (y // 2).to(tl.int64) * chroma_words + group)

    room = tl.where(line < height, (width * 3 + 3) // 4, 0) - column * 3
    target = out + line.to(tl.int64) * words + column * 3
    store_pixels(
        target, room, four, two, two >> 8, two >> 16, two >> 24,
        luma_factor, red, blue, green_red, green_blue, black,
    )  # fmt: skip


@kernel
def store_pixels(
    target: tl.tensor,
    room: tl.tensor,
    four: tl.tensor,
    left_blue: tl.tensor,
    left_red: tl.tensor,
    right_blue: tl.tensor,
    right_red: tl.tensor,
    luma_factor: tl.tensor,
    red: tl.tensor,
    blue: tl.tensor,
    green_red: tl.tensor,
    green_blue: tl.tensor,
    black: tl.tensor,
) -> None:
    """Convert and write groups of four pixels, which are three words.

    Args:
        target: Pointers to where the words go.
        room: How many words from there on may be written.
        four: int32, four samples of luma, the leftmost in the lowest byte.
        left_blue: int32, in its lowest byte the Cb of the two at the left.
        left_red: Their Cr.
        right_blue: The same of the two at the right.
        right_red: Their Cr.
        luma_factor: int32, as this and what follows is in `Colour`.
        red: Likewise.
        blue: Likewise.
        green_red: Likewise.
        green_blue: Likewise.
        black: Likewise.
    """
    blue0, green0, red0 = _chroma(left_blue, left_red, red, blue, green_red, green_blue)
    blue1, green1, red1 = _chroma(right_blue, right_red, red, blue, green_red, green_blue)
    gray0 = (((four & 255) * 8 - black) * luma_factor) >> 16
    gray1 = ((((four >> 8) & 255) * 8 - black) * luma_factor) >> 16
    gray2 = ((((four >> 16) & 255) * 8 - black) * luma_factor) >> 16
    gray3 = ((((four >> 24) & 255) * 8 - black) * luma_factor) >> 16
    b0, g0, r0 = _level(gray0 + blue0), _level(gray0 + green0), _level(gray0 + red0)
    b1, g1, r1 = _level(gray1 + blue0), _level(gray1 + green0), _level(gray1 + red0)
    b2, g2, r2 = _level(gray2 + blue1), _level(gray2 + green1), _level(gray2 + red1)
    b3, g3, r3 = _level(gray3 + blue1), _level(gray3 + green1), _level(gray3 + red1)
    tl.store(target, b0 | (g0 << 8) | (r0 << 16) | (b1 << 24), mask=room > 0)
    tl.store(target + 1, g1 | (r1 << 8) | (b2 << 16) | (g2 << 24), mask=room > 1)
    tl.store(target + 2, r2 | (b3 << 8) | (g3 << 16) | (r3 << 24), mask=room > 2)


@kernel
def _chroma(
    blue_sample: tl.tensor,
    red_sample: tl.tensor,
    red: tl.tensor,
    blue: tl.tensor,
    green_red: tl.tensor,
    green_blue: tl.tensor,
) -> tl.tensor:
    """Return what a chroma sample adds to blue, green and red; only its lowest byte counts."""
    from_blue = (blue_sample & 255) * 8 - 1024
    from_red = (red_sample & 255) * 8 - 1024
    green = ((from_blue * green_blue) >> 16) + ((from_red * green_red) >> 16)
    return (from_blue * blue) >> 16, green, (from_red * red) >> 16


@kernel
def _level(value: tl.tensor) -> tl.tensor:
    """Return a value as a level, 0 to 255."""
    return tl.minimum(tl.maximum(value, 0), 255)
