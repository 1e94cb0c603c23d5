"""Copy, nearest upsampling and max pooling between slices of channels, as Triton kernels.

PyTorch's kernels for these run at a fraction of the memory's speed on channels-last tensors; these
read and write whole runs of channels, and write where a concatenation is read.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from brimful.cuda.kernel import kernel
from brimful.cuda.launch import Launch
from brimful.runtimes.cuda.network.conv import tile_of

PIXELS = 32


@kernel
def _spread(
    x: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    x_image: tl.tensor,
    x_row: tl.tensor,
    x_column: tl.tensor,
    y_image: tl.tensor,
    y_row: tl.tensor,
    y_column: tl.tensor,
    CHANNELS: tl.constexpr,
    SCALE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Write ROWS pixels of `y`; each pixel of `x` stands for SCALE x SCALE of them."""
    channel, real, live, image, row, column = tile_of(
        pixels, height, width, CHANNELS, ROWS, COLUMNS
    )
    mask = live[:, None] & real[None, :]
    source = x + image * x_image + (row // SCALE) * x_row + (column // SCALE) * x_column
    value = tl.load(source[:, None] + channel[None, :], mask=mask)
    target = y + image * y_image + row * y_row + column * y_column
    tl.store(target[:, None] + channel[None, :], value, mask=mask)


@kernel
def _max_pool(
    x: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    x_image: tl.tensor,
    x_row: tl.tensor,
    x_column: tl.tensor,
    y_image: tl.tensor,
    y_row: tl.tensor,
    y_column: tl.tensor,
    CHANNELS: tl.constexpr,
    REACH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Write ROWS pixels of `y`: the largest of the square around each that lies in the image."""
    channel, real, live, image, row, column = tile_of(
        pixels, height, width, CHANNELS, ROWS, COLUMNS
    )
    source = x + image * x_image + row * x_row + column * x_column
    best = tl.full((ROWS, COLUMNS), float("-inf"), tl.float32)
    for down in range(-REACH, REACH + 1):
        for right in range(-REACH, REACH + 1):
            inside = live & (row + down >= 0) & (row + down < height)
            inside = inside & (column + right >= 0) & (column + right < width)
            at = source + down * x_row + right * x_column
            value = tl.load(
                at[:, None] + channel[None, :],
                mask=inside[:, None] & real[None, :],
                other=float("-inf"),
            )
            best = tl.maximum(best, value.to(tl.float32), propagate_nan=tl.PropagateNan.ALL)
    target = y + image * y_image + row * y_row + column * y_column
    tl.store(
        target[:, None] + channel[None, :],
        best.to(y.dtype.element_ty),
        mask=live[:, None] & real[None, :],
    )


def spread(x: Any, out: Any, *, scale: int) -> Launch:
    """Prepare a copy of `x` to `out`, every pixel repeated `scale` times in both directions.

    Args:
        x: (batch, channels, height, width), channels-last or a slice of channels of it.
        out: (batch, channels, scale * height, scale * width), likewise, of the same dtype.
        scale: 1 for a plain copy.
    """
    return _prepare(_spread, x, out, {"SCALE": scale})


def max_pool(x: Any, out: Any, *, side: int) -> Launch:
    """Prepare max pooling with stride 1 over squares of an odd side, edges padded as by -inf.

    Args:
        x: (batch, channels, height, width), channels-last or a slice of channels of it.
        out: The same shape, likewise.
        side: Of the square.
    """
    return _prepare(_max_pool, x, out, {"REACH": side // 2})


def _prepare(function: Any, x: Any, out: Any, constants: dict[str, Any]) -> Launch:
    batch, channels, height, width = out.shape
    pixels = batch * height * width
    columns = min(128, triton.next_power_of_2(channels))
    arguments = (
        *(x, out, pixels, height, width),
        *(x.stride(0), x.stride(2), x.stride(3)),
        *(out.stride(0), out.stride(2), out.stride(3)),
    )
    shape = {"CHANNELS": channels, "ROWS": PIXELS, "COLUMNS": columns, "num_warps": 4}
    grid = (triton.cdiv(pixels, PIXELS) * triton.cdiv(channels, columns),)
    return Launch(function, grid, arguments, {**constants, **shape})
