"""Convolution, bias, activation and residual in one pass over memory, as Triton kernels.

A small YOLO network is bound by memory: what a library computes in three passes (convolution, bias,
activation) costs three times the traffic, and its tiles are made for hundreds of channels where
these layers have 8 to 128. `conv` is an implicit matrix product (im2col that is never written; see
Chetlur et al., arXiv 1410.0759): rows are output pixels, columns output channels, and the inner
dimension runs over the taps of the kernel and the input channels. Tensors are channels-last and
may be slices of channels of a wider one, in and out, so that neither concatenation nor split needs
a copy.

The inner dimension is cut the same way whatever the batch and the canvas (`Tile.inner`), and sums
are float32: a pixel's value does not depend on its neighbours in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl

from brimful.cuda.kernel import kernel
from brimful.cuda.launch import Launch

MULTIPROCESSORS = 132
"""Of the chip the rule of `tile` was measured on; fewer tiles than that leave some idle."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How a convolution is cut into programs.

    Attributes:
        rows: Output pixels of a program.
        columns: Output channels of a program.
        inner: Input channels a step; for `flat`, positions of the flattened kernel.
        warps: Warps of a program.
        stages: Loads in flight.
        flat: Taps and channels are one dimension: for fewer channels than a matrix unit takes.
    """

    rows: int
    columns: int
    inner: int
    warps: int
    stages: int
    flat: bool


def tile(pixels: int, channels_in: int, channels_out: int, kernel: int) -> Tile:
    """Return the tile for a layer: a rule in place of a search, so that a start takes no search.

    Over the layers of yolo26n it costs a few per cent against the best of a dozen measured tiles
    (benchmarks/NOTES.md).

    Args:
        pixels: Output pixels over the whole batch.
        channels_in: Input channels.
        channels_out: Output channels.
        kernel: Side of the kernel.
    """
    columns = max(16, min(128, triton.next_power_of_2(channels_out)))
    if channels_in < 16:
        return Tile(256 if channels_in < 8 else 128, columns, 32, 4, 1, True)
    inner = 16 if channels_in < 32 else 64 if channels_in % 64 == 0 and columns < 128 else 32
    if channels_in * kernel * kernel >= 1152 and channels_out >= 128 and pixels >= 128 * 1024:
        return Tile(128, 128, inner, 8, 4, False)  # bound by arithmetic: reuse more of each load
    rows = 128 if columns == 16 else 64
    while columns > 32 and _programs(pixels, channels_out, rows, columns) < MULTIPROCESSORS:
        columns //= 2
    return Tile(rows, columns, inner, 4, 3, False)


def _programs(pixels: int, channels_out: int, rows: int, columns: int) -> int:
    return int(triton.cdiv(pixels, rows) * triton.cdiv(channels_out, columns))


@kernel
def tile_of(
    pixels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> tl.tensor:
    """Return a program's tile: channels, whether they are real, pixels that are, and these' places.

    The grid has one dimension, columns first (their programs share the pixels in the cache): the
    second dimension of a grid ends at 65,535.
    """
    across: tl.constexpr = (CHANNELS + COLUMNS - 1) // COLUMNS
    channel = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)
    pixel = (tl.program_id(0) // across) * ROWS + tl.arange(0, ROWS)
    row = (pixel // width) % height
    image = (pixel // width // height).to(tl.int64)
    return channel, channel < CHANNELS, pixel < pixels, image, row, pixel % width


def _conv(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    x_image: tl.tensor,
    x_row: tl.tensor,
    x_column: tl.tensor,
    r_image: tl.tensor,
    r_row: tl.tensor,
    r_column: tl.tensor,
    y_image: tl.tensor,
    y_row: tl.tensor,
    y_column: tl.tensor,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    SILU: tl.constexpr,
    RESIDUAL: tl.constexpr,
    FLAT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
) -> None:
    """Compute a tile of ROWS output pixels by COLUMNS output channels."""
    out, real, live, image, row, column = tile_of(pixels, out_height, out_width, OUT, ROWS, COLUMNS)
    top = row * STRIDE - PADDING
    left = column * STRIDE - PADDING
    origin = image * x_image + top * x_row + left * x_column
    if IN % 8 == 0:  # lets the compiler read eight channels at a time
        origin = tl.multiple_of(origin, 8)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    if FLAT:
        DEPTH: tl.constexpr = KERNEL * KERNEL * IN
        for start in tl.static_range(0, DEPTH, INNER):
            k = start + tl.arange(0, INNER)
            tap = k // IN
            down = tap // KERNEL
            across = tap % KERNEL
            offset = down * x_row + across * x_column + k % IN
            if IN % 8 == 0:
                offset = tl.max_contiguous(tl.multiple_of(offset, 8), 8)
            at_row = top[:, None] + down[None, :]
            at_column = left[:, None] + across[None, :]
            inside = (at_row >= 0) & (at_row < height) & (at_column >= 0) & (at_column < width)
            inside = inside & live[:, None] & (k < DEPTH)[None, :]
            a = tl.load(x + origin[:, None] + offset[None, :], mask=inside, other=0.0)
            b = tl.load(
                weight + k[:, None] * OUT + out[None, :],
                mask=(k < DEPTH)[:, None] & real[None, :],
                other=0.0,
            )
            total = tl.dot(a, b, total)
    else:
        for tap in range(KERNEL * KERNEL):
            down = tap // KERNEL
            across = tap % KERNEL
            inside = live
            if PADDING > 0:
                at_row = top + down
                at_column = left + across
                inside = live & (at_row >= 0) & (at_row < height)
                inside = inside & (at_column >= 0) & (at_column < width)
            source = x + origin + down * x_row + across * x_column
            for start in range(0, IN, INNER):
                c = start + tl.arange(0, INNER)
                within = c < IN
                k = tap * IN + c
                if IN % INNER == 0:
                    a = tl.load(source[:, None] + c[None, :], mask=inside[:, None], other=0.0)
                    b = tl.load(
                        weight + k[:, None] * OUT + out[None, :], mask=real[None, :], other=0.0
                    )
                else:
                    a = tl.load(
                        source[:, None] + c[None, :],
                        mask=inside[:, None] & within[None, :],
                        other=0.0,
                    )
                    b = tl.load(
                        weight + k[:, None] * OUT + out[None, :],
                        mask=within[:, None] & real[None, :],
                        other=0.0,
                    )
                total = tl.dot(a, b, total)
    total += tl.load(bias + out, mask=real, other=0.0)[None, :]
    if SILU:
        total = total * tl.sigmoid(total)
    written = live[:, None] & real[None, :]
    if RESIDUAL:
        place = residual + image * r_image + row * r_row + column * r_column
        total += tl.load(place[:, None] + out[None, :], mask=written, other=0.0).to(tl.float32)
    place = y + image * y_image + row * y_row + column * y_column
    tl.store(place[:, None] + out[None, :], total.to(y.dtype.element_ty), mask=written)


def _depthwise(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    x_image: tl.tensor,
    x_row: tl.tensor,
    x_column: tl.tensor,
    y_image: tl.tensor,
    y_row: tl.tensor,
    y_column: tl.tensor,
    CHANNELS: tl.constexpr,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PADDING: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Compute a tile of ROWS output pixels by COLUMNS channels, each channel on its own."""
    channel, real, live, image, row, column = tile_of(
        pixels, out_height, out_width, CHANNELS, ROWS, COLUMNS
    )
    top = row * STRIDE - PADDING
    left = column * STRIDE - PADDING
    origin = image * x_image + top * x_row + left * x_column
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for down in tl.static_range(KERNEL):
        for across in tl.static_range(KERNEL):
            inside = live & (top + down >= 0) & (top + down < height)
            inside = inside & (left + across >= 0) & (left + across < width)
            source = x + origin + down * x_row + across * x_column
            a = tl.load(
                source[:, None] + channel[None, :],
                mask=inside[:, None] & real[None, :],
                other=0.0,
            )
            w = tl.load(
                weight + (down * KERNEL + across) * CHANNELS + channel, mask=real, other=0.0
            )
            total += a.to(tl.float32) * w.to(tl.float32)[None, :]
    total += tl.load(bias + channel, mask=real, other=0.0)[None, :]
    if SILU:
        total = total * tl.sigmoid(total)
    place = y + image * y_image + row * y_row + column * y_column
    tl.store(
        place[:, None] + channel[None, :],
        total.to(y.dtype.element_ty),
        mask=live[:, None] & real[None, :],
    )


# A kernel is compiled anew for every size that happens to be divisible by 16; strides profit from
# it (wide loads), heights and widths do not.
_SIZES = ["pixels", "out_height", "out_width", "height", "width"]
conv_kernel: Any = triton.jit(do_not_specialize=_SIZES)(_conv)
depthwise_kernel: Any = triton.jit(do_not_specialize=_SIZES)(_depthwise)


def conv(
    x: Any,
    weight: Any,
    bias: Any,
    out: Any,
    *,
    kernel: int,
    stride: int,
    padding: int,
    silu: bool,
    residual: Any = None,
) -> Launch:
    """Prepare `out = [silu](conv(x, weight) + bias) [+ residual]`.

    Args:
        x: fp16 or bf16 (batch, in, height, width), channels-last, or a slice of channels of it.
        weight: The same dtype, (kernel * kernel * in, out), rows by tap, then channel.
        bias: float32 (out,).
        out: (batch, out, out_height, out_width), channels-last or a slice of channels; fp16, bf16
            or float32.
        kernel: Side of the kernel.
        stride: Step in both directions.
        padding: Zeros around the input.
        silu: Whether SiLU follows.
        residual: Added after the activation, of the shape and layout of `out`, or None.
    """
    batch, channels_out, out_height, out_width = out.shape
    channels_in = x.shape[1]
    pixels = batch * out_height * out_width
    chosen = tile(pixels, channels_in, channels_out, kernel)
    added = out if residual is None else residual
    arguments = (
        *(x, weight, bias, added, out),
        *(pixels, out_height, out_width, x.shape[2], x.shape[3]),
        *(x.stride(0), x.stride(2), x.stride(3)),
        *(added.stride(0), added.stride(2), added.stride(3)),
        *(out.stride(0), out.stride(2), out.stride(3)),
    )
    constants = {
        "IN": channels_in,
        "OUT": channels_out,
        "KERNEL": kernel,
        "STRIDE": stride,
        "PADDING": padding,
        "SILU": silu,
        "RESIDUAL": residual is not None,
        "FLAT": chosen.flat,
        "ROWS": chosen.rows,
        "COLUMNS": chosen.columns,
        "INNER": chosen.inner,
        "num_warps": chosen.warps,
        "num_stages": chosen.stages,
    }
    grid = (_programs(pixels, channels_out, chosen.rows, chosen.columns),)
    return Launch(conv_kernel, grid, arguments, constants)


def depthwise(
    x: Any,
    weight: Any,
    bias: Any,
    out: Any,
    *,
    kernel: int,
    stride: int,
    padding: int,
    silu: bool,
) -> Launch:
    """Prepare a depthwise convolution; `weight` is (kernel * kernel, channels), see `conv`."""
    batch, channels, out_height, out_width = out.shape
    pixels = batch * out_height * out_width
    columns = 64 if channels % 64 == 0 else 16
    rows = 128 if columns == 16 else 64
    arguments = (
        *(x, weight, bias, out),
        *(pixels, out_height, out_width, x.shape[2], x.shape[3]),
        *(x.stride(0), x.stride(2), x.stride(3)),
        *(out.stride(0), out.stride(2), out.stride(3)),
    )
    constants = {
        "CHANNELS": channels,
        "KERNEL": kernel,
        "STRIDE": stride,
        "PADDING": padding,
        "SILU": silu,
        "ROWS": rows,
        "COLUMNS": columns,
        "num_warps": 4,
        "num_stages": 1,
    }
    grid = (_programs(pixels, channels, rows, columns),)
    return Launch(depthwise_kernel, grid, arguments, constants)
