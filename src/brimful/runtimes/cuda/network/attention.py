"""Multi-head attention over the cells of a feature map in one pass, as a Triton kernel.

The softmax is computed while the keys pass by: the largest score so far, the sum of the weights and
the weighted sum of the values are kept per query in float32 and rescaled when a larger score comes,
so that the matrix of scores is never in memory (FlashAttention, Dao et al., arXiv 2205.14135;
online softmax, Milakov and Gimelshein, arXiv 1805.02867).

Tensors are channels-last maps, as the convolutions before and behind it read and write them: a
cell is a row, and neither transposes nor copies are needed. The tile depends neither on the batch
nor on the map, so an image's result does not depend on its neighbours.
"""

from __future__ import annotations

import math
from typing import Any

import triton
import triton.language as tl

from brimful.cuda.launch import Launch

DIMS = (16, 32, 64, 128)
"""Channels of a head that the kernel takes: what a matrix unit takes, and what registers hold."""

QUERIES = 64
"""Queries of a program: what four warps give Hopper's matrix unit at once. A map of 15x20 cells
fills 94 % of five such blocks, but 78 % of three of 128; a single image has twice the programs."""

KEYS = 64
"""Keys a step, for the same reason; the next steps' keys and values are loaded meanwhile."""


def _attention(
    x: tl.tensor,
    residual: tl.tensor,
    y: tl.tensor,
    scale: tl.tensor,
    cells: tl.tensor,
    x_image: tl.tensor,
    x_cell: tl.tensor,
    r_image: tl.tensor,
    r_cell: tl.tensor,
    y_image: tl.tensor,
    y_cell: tl.tensor,
    HEADS: tl.constexpr,
    KEY_DIM: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    RESIDUAL: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
) -> None:
    """Compute QUERIES cells of a head of an image; `scale` is for powers of two.

    Programs of one head follow each other: they share its keys and values in the cache.
    """
    blocks = tl.cdiv(cells, QUERIES)
    query = (tl.program_id(0) % blocks) * QUERIES + tl.arange(0, QUERIES)
    head = tl.program_id(0) // blocks % HEADS
    image = (tl.program_id(0) // blocks // HEADS).to(tl.int64)
    key_channel = tl.arange(0, KEY_DIM)
    head_channel = head * HEAD_DIM + tl.arange(0, HEAD_DIM)
    values = x + image * x_image
    queries = values + HEADS * HEAD_DIM + head * KEY_DIM
    keys = queries + HEADS * KEY_DIM
    live = query < cells
    q = tl.load(
        queries + query[:, None] * x_cell + key_channel[None, :], mask=live[:, None], other=0.0
    )
    best = tl.full((QUERIES,), float("-inf"), tl.float32)
    weight = tl.zeros((QUERIES,), tl.float32)
    total = tl.zeros((QUERIES, HEAD_DIM), tl.float32)
    for start in range(0, cells, KEYS):
        key = start + tl.arange(0, KEYS)
        real = key < cells
        k = tl.load(
            keys + key[:, None] * x_cell + key_channel[None, :], mask=real[:, None], other=0.0
        )
        v = tl.load(
            values + key[:, None] * x_cell + head_channel[None, :], mask=real[:, None], other=0.0
        )
        score = tl.dot(q, tl.trans(k)) * scale
        score = tl.where(real[None, :], score, float("-inf"))
        higher = tl.maximum(best, tl.max(score, 1))
        share = tl.exp2(score - higher[:, None])
        shrink = tl.exp2(best - higher)
        weight = weight * shrink + tl.sum(share, 1)
        total = tl.dot(share.to(v.dtype), v, total * shrink[:, None])
        best = higher
    total = total / weight[:, None]
    if RESIDUAL:
        place = residual + image * r_image + query[:, None] * r_cell + head_channel[None, :]
        total += tl.load(place, mask=live[:, None], other=0.0).to(tl.float32)
    place = y + image * y_image + query[:, None] * y_cell + head_channel[None, :]
    tl.store(place, total.to(y.dtype.element_ty), mask=live[:, None])


# The number of cells may be divisible by 16 or not: that is no reason to compile anew.
attention_kernel: Any = triton.jit(do_not_specialize=["cells"])(_attention)


def attention(
    x: Any,
    out: Any,
    *,
    heads: int,
    key_dim: int,
    head_dim: int,
    scale: float,
    residual: Any = None,
) -> Launch:
    """Prepare `out = softmax(scale * q k^T) v [+ residual]` for every image and head.

    Args:
        x: fp16 or bf16 (batch, heads * (head_dim + 2 * key_dim), height, width), channels-last or a
            slice of channels of it: the values of all heads, then their queries, then their keys.
        out: (batch, heads * head_dim, height, width), likewise; fp16, bf16 or float32.
        heads: Heads.
        key_dim: Channels of a head's queries and keys, one of `DIMS`.
        head_dim: Channels of a head's values, one of `DIMS`.
        scale: Of the scores, before the softmax.
        residual: Added to the result, of the shape of `out`, which it may be; or None.

    Raises:
        ValueError: Channels that the kernel does not take, or maps that it cannot read.
    """
    if key_dim not in DIMS or head_dim not in DIMS:
        raise ValueError(f"a head has {DIMS} channels, not {key_dim} (keys) and {head_dim}")
    batch, _, height, width = out.shape
    maps = {"x": heads * (head_dim + 2 * key_dim), "out": heads * head_dim}
    for name, tensor in (("x", x), ("out", out)):
        if tensor.shape != (batch, maps[name], height, width):
            expected = (batch, maps[name], height, width)
            raise ValueError(f"{name} is expected to be {expected}, not {tuple(tensor.shape)}")
    added = out if residual is None else residual
    cells = height * width
    arguments = (
        *(x, added, out, scale * math.log2(math.e), cells),
        *(x.stride(0), _cell_stride(x)),
        *(added.stride(0), _cell_stride(added)),
        *(out.stride(0), _cell_stride(out)),
    )
    constants = {
        "HEADS": heads,
        "KEY_DIM": key_dim,
        "HEAD_DIM": head_dim,
        "RESIDUAL": residual is not None,
        "QUERIES": QUERIES,
        "KEYS": KEYS,
        "num_warps": 4,
        "num_stages": 3 if head_dim <= 64 else 2,  # shared memory of smaller chips
    }
    grid = (batch * heads * triton.cdiv(cells, QUERIES),)
    return Launch(attention_kernel, grid, arguments, constants)


def _cell_stride(x: Any) -> int:
    """Return the step from a cell to the next, which must be the same at the end of a row."""
    height, width = x.shape[2:]
    step = int(x.stride(3) if width > 1 else x.stride(2))
    gaps = height > 1 and width > 1 and x.stride(2) != width * step
    if x.stride(1) != 1 or gaps:
        raise ValueError(
            "attention reads channels-last maps without gaps between rows; "
            f"strides {tuple(x.stride())} of shape {tuple(x.shape)} are not"
        )
    return step
