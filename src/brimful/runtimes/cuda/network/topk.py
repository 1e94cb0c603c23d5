"""The best pairs of anchor and class of each image, decoded, as Triton kernels.

One pass over the logits finds the best class of every anchor. Then one program an image chooses the
best anchors, of their logits the best pairs, and writes these as rows in their order. Nothing is
sorted as a whole: the value that just so many keys reach is found by bisection, bit by bit (a
selection by radix with one bit a digit, Knuth, The Art of Computer Programming, vol. 3, 5.2.5), and
only what is chosen is ranked. No atomic decides an order, so equal inputs give equal rows, whatever
else is in the batch: of equal values the lower anchor comes first, then the lower class.

Values are compared as 32-bit keys that order as the floats do. NaN is below every number.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from brimful.cuda.kernel import kernel
from brimful.cuda.launch import Launch

ANCHORS = 128
"""Anchors of a program that looks for their best class."""

CLASSES = 16
"""Classes that it loads at a time: 64 bytes of a row."""

CHUNK = 4096
"""Keys that the program of an image looks at at a time."""

ROWS = 512
OTHERS = 16
"""Rows that are ranked at a time, and rows that they are compared with at a time."""

WARPS = 16
"""Of the program of an image: there is one on a multiprocessor, if that."""

LEVEL = 3
"""Numbers that describe a level: its first cell, cells of a row, and pixels of a cell's side."""

LOWEST = tl.constexpr(-(1 << 31))
"""The key of NaN, which no number has."""


@kernel
def _key(value: tl.tensor) -> tl.tensor:
    """Return int32 keys that order as float32 values do, both zeros the same, NaN below all."""
    bits = value.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = tl.where(value == 0.0, 0, key)
    return tl.where(value != value, LOWEST, key)


@kernel
def _value(key: tl.tensor) -> tl.tensor:
    """Return the float32 values of keys."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


def _best_scores(
    logits: tl.tensor,
    best: tl.tensor,
    anchors: tl.tensor,
    COUNT: tl.constexpr,
    ANCHORS: tl.constexpr,
    CLASSES: tl.constexpr,
) -> None:
    """Write the key of the best class of ANCHORS anchors; the program id is the block of them.

    Args:
        logits: float32 (anchors, COUNT).
        best: int32 (anchors,), receives the keys.
        anchors: Over the whole batch.
        COUNT: Classes of the model.
        ANCHORS: Anchors per program.
        CLASSES: Classes that are loaded at a time.
    """
    anchor = tl.program_id(0) * ANCHORS + tl.arange(0, ANCHORS)
    row = logits + anchor.to(tl.int64) * COUNT
    top = tl.full((ANCHORS,), LOWEST, tl.int32)
    for first in range(0, COUNT, CLASSES):
        column = first + tl.arange(0, CLASSES)
        inside = (anchor < anchors)[:, None] & (column < COUNT)[None, :]
        value = tl.load(row[:, None] + column[None, :], mask=inside, other=float("nan"))
        top = tl.maximum(top, tl.max(_key(value), axis=1))
    tl.store(best + anchor, top, mask=anchor < anchors)


@kernel
def _keep(
    keys: tl.tensor, count: tl.tensor, rows: tl.tensor, kept: tl.tensor, CHUNK: tl.constexpr
) -> tl.tensor:
    """Find the `rows` largest of at least as many keys, of equal ones the first.

    Args:
        keys: int32 (count,).
        count: How many.
        rows: How many to keep.
        kept: int32 (rows,), receives where they are, in ascending order.
        CHUNK: Keys that are looked at at a time.

    Returns:
        A bound, int64, that all kept keys reach, and of the others only such as equal it.
    """
    lane = tl.arange(0, CHUNK)
    bound = tl.full((), LOWEST, tl.int64)
    for step in range(0, 32):
        higher = bound + (tl.full((), 1, tl.int64) << (31 - step))
        reached = tl.zeros((CHUNK,), tl.int32)
        for start in range(0, count, CHUNK):
            key = tl.load(keys + start + lane, mask=start + lane < count, other=LOWEST)
            reached += (key.to(tl.int64) >= higher).to(tl.int32)
        bound = tl.where(tl.sum(reached, axis=0) >= rows, higher, bound)
    above = tl.zeros((CHUNK,), tl.int32)
    for start in range(0, count, CHUNK):
        key = tl.load(keys + start + lane, mask=start + lane < count, other=LOWEST)
        above += (key.to(tl.int64) > bound).to(tl.int32)
    wanted = rows - tl.sum(above, axis=0)  # of those that equal the bound
    equal = 0
    taken = 0
    for start in range(0, count, CHUNK):
        inside = start + lane < count
        key = tl.load(keys + start + lane, mask=inside, other=LOWEST).to(tl.int64)
        same = inside & (key == bound)
        place = equal + tl.cumsum(same.to(tl.int32), axis=0)
        take = (key > bound) | (same & (place <= wanted))
        at = taken + tl.cumsum(take.to(tl.int32), axis=0) - 1
        tl.store(kept + at, start + lane, mask=take)
        equal += tl.sum(same.to(tl.int32), axis=0)
        taken += tl.sum(take.to(tl.int32), axis=0)
    return bound


@kernel
def _find_pairs(
    logits: tl.tensor,
    chosen: tl.tensor,
    keys: tl.tensor,
    pairs: tl.tensor,
    total: tl.tensor,
    bound: tl.tensor,
    COUNT: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """List the pairs of chosen anchors that reach a bound, in order; return how many.

    Args:
        logits: float32 (anchors, COUNT), of an image.
        chosen: int32 (total / COUNT,), its anchors, in ascending order.
        keys: int32 (total,), receives the keys of the pairs.
        pairs: int32 (total,), receives anchor * COUNT + class.
        total: Pairs to look at.
        bound: int64, keys below it are left out.
        COUNT: Classes of the model.
        CHUNK: Pairs that are looked at at a time.
    """
    lane = tl.arange(0, CHUNK)
    found = 0
    for start in range(0, total, CHUNK):
        inside = start + lane < total
        slot = (start + lane) // COUNT
        anchor = tl.load(chosen + slot, mask=inside, other=0)
        pair = anchor * COUNT + (start + lane - slot * COUNT)
        key = _key(tl.load(logits + pair, mask=inside, other=0.0))
        good = inside & (key.to(tl.int64) >= bound)
        at = found + tl.cumsum(good.to(tl.int32), axis=0) - 1
        tl.store(keys + at, key, mask=good)
        tl.store(pairs + at, pair, mask=good)
        found += tl.sum(good.to(tl.int32), axis=0)
    return found


@kernel
def _rank(
    keys: tl.tensor,
    kept: tl.tensor,
    row: tl.tensor,
    key: tl.tensor,
    rows: tl.tensor,
    ROWS: tl.constexpr,
    OTHERS: tl.constexpr,
) -> tl.tensor:
    """Return how many of the kept keys come before those of ROWS rows, which makes it unique."""
    rank = tl.zeros((ROWS,), tl.int32)
    for start in range(0, rows, OTHERS):
        other = start + tl.arange(0, OTHERS)
        at = tl.load(kept + other, mask=other < rows, other=0)
        theirs = tl.load(keys + at, mask=other < rows, other=LOWEST)[None, :]
        first = (theirs > key[:, None]) | (
            (theirs == key[:, None]) & (other[None, :] < row[:, None])
        )
        rank += tl.sum((first & (other < rows)[None, :]).to(tl.int32), axis=1)
    return rank


@kernel
def _write(
    distances: tl.tensor,
    levels: tl.tensor,
    out: tl.tensor,
    pair: tl.tensor,
    score: tl.tensor,
    inside: tl.tensor,
    COUNT: tl.constexpr,
    LEVELS: tl.constexpr,
    LEVEL: tl.constexpr,
) -> None:
    """Write rows: decoded box, score and class of pairs, each to a place of its own in `out`."""
    anchor = pair // COUNT
    begin = tl.zeros(anchor.shape, tl.int32)
    width = tl.full(anchor.shape, 1, tl.int32)
    stride = tl.full(anchor.shape, 1.0, tl.float32)
    for level in range(0, LEVELS):
        first = tl.load(levels + level * LEVEL).to(tl.int32)
        here = anchor >= first
        begin = tl.where(here, first, begin)
        width = tl.where(here, tl.load(levels + level * LEVEL + 1).to(tl.int32), width)
        stride = tl.where(here, tl.load(levels + level * LEVEL + 2), stride)
    cell = anchor - begin
    line = cell // width
    x = (cell - line * width).to(tl.float32) + 0.5
    y = line.to(tl.float32) + 0.5
    side = distances + anchor * 4
    left = tl.load(side, mask=inside, other=0.0)
    top = tl.load(side + 1, mask=inside, other=0.0)
    right = tl.load(side + 2, mask=inside, other=0.0)
    bottom = tl.load(side + 3, mask=inside, other=0.0)
    tl.store(out, (x - left) * stride, mask=inside)
    tl.store(out + 1, (y - top) * stride, mask=inside)
    tl.store(out + 2, (x + right) * stride, mask=inside)
    tl.store(out + 3, (y + bottom) * stride, mask=inside)
    tl.store(out + 4, tl.sigmoid(score), mask=inside)
    tl.store(out + 5, (pair - anchor * COUNT).to(tl.float32), mask=inside)


def _best_pairs(
    best: tl.tensor,
    logits: tl.tensor,
    distances: tl.tensor,
    levels: tl.tensor,
    chosen: tl.tensor,
    keys: tl.tensor,
    pairs: tl.tensor,
    out: tl.tensor,
    cells: tl.tensor,
    rows: tl.tensor,
    COUNT: tl.constexpr,
    LEVELS: tl.constexpr,
    LEVEL: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    OTHERS: tl.constexpr,
) -> None:
    """Write the rows of an image; the program id is the image.

    Args:
        best: int32 (images, cells), the key of each anchor's best class.
        logits: float32 (images, cells, COUNT).
        distances: float32 (images, cells, 4), from a cell's centre to the left, top, right and
            bottom, in cells.
        levels: float32 (LEVELS, LEVEL), in ascending order of the first cell.
        chosen: int32 (images, rows), to work with: the chosen anchors, then the chosen pairs.
        keys: int32 (images, rows * COUNT), to work with.
        pairs: int32 (images, rows * COUNT), likewise.
        out: float32 (images, rows, 6), receives `x1 y1 x2 y2 score class`.
        cells: Anchors of an image.
        rows: Rows of an image, at most `cells`.
        COUNT: Classes of the model.
        LEVELS: Levels of the head.
        LEVEL: Numbers that describe one.
        CHUNK: Keys that are looked at at a time.
        ROWS: Rows that are ranked at a time.
        OTHERS: Rows that they are compared with at a time.
    """
    image = tl.program_id(0).to(tl.int64)
    best += image * cells
    logits += image * cells * COUNT
    distances += image * cells * 4
    chosen += image * rows
    keys += image * rows * COUNT
    pairs += image * rows * COUNT
    out += image * rows * 6
    bound = _keep(best, cells, rows, chosen, CHUNK)
    tl.debug_barrier()  # what is read from here on, other threads have written
    # Every chosen anchor has a pair that reaches the bound, so the best pairs all do.
    found = _find_pairs(logits, chosen, keys, pairs, rows * COUNT, bound, COUNT, CHUNK)
    tl.debug_barrier()
    _keep(keys, found, rows, chosen, CHUNK)
    tl.debug_barrier()
    for start in range(0, rows, ROWS):
        row = start + tl.arange(0, ROWS)
        inside = row < rows
        at = tl.load(chosen + row, mask=inside, other=0)
        key = tl.load(keys + at, mask=inside, other=LOWEST)
        pair = tl.load(pairs + at, mask=inside, other=0)
        rank = _rank(keys, chosen, row, key, rows, ROWS, OTHERS)
        place = out + rank * 6
        _write(distances, levels, place, pair, _value(key), inside, COUNT, LEVELS, LEVEL)


# Cells and rows depend on the canvas: a kernel shall not be compiled anew for each.
best_scores_kernel: Any = triton.jit(do_not_specialize=["anchors"])(_best_scores)
best_pairs_kernel: Any = triton.jit(do_not_specialize=["cells", "rows"])(_best_pairs)


def best_scores(logits: Any, best: Any) -> Launch:
    """Prepare what finds the best class of every anchor.

    Args:
        logits: float32 (batch, cells, classes), contiguous.
        best: int32 (batch, cells), receives the keys of the best.
    """
    batch, cells, classes = logits.shape
    constants = {
        "COUNT": classes,
        "ANCHORS": ANCHORS,
        "CLASSES": min(CLASSES, triton.next_power_of_2(classes)),
        "num_warps": 4,
    }
    grid = (triton.cdiv(batch * cells, ANCHORS),)
    return Launch(best_scores_kernel, grid, (logits, best, batch * cells), constants)


def best_pairs(
    best: Any,
    logits: Any,
    distances: Any,
    levels: Any,
    work: tuple[Any, Any, Any],
    out: Any,
) -> Launch:
    """Prepare what chooses the best anchors, of these the best pairs, and decodes them.

    Args:
        best: int32 (batch, cells), as `best_scores` leaves it.
        logits: float32 (batch, cells, classes), contiguous.
        distances: float32 (batch, cells, 4), left, top, right and bottom, in cells; contiguous.
        levels: float32 (levels, LEVEL).
        work: int32 (batch, rows) and two (batch, rows * classes), overwritten.
        out: float32 (batch, rows, 6), receives `x1 y1 x2 y2 score class`, best first. There are at
            most as many rows as cells.
    """
    batch, cells, classes = logits.shape
    constants = {
        "COUNT": classes,
        "LEVELS": levels.shape[0],
        "LEVEL": LEVEL,
        "CHUNK": CHUNK,
        "ROWS": ROWS,
        "OTHERS": OTHERS,
        "num_warps": WARPS,
    }
    arguments = (best, logits, distances, levels, *work, out, cells, out.shape[1])
    return Launch(best_pairs_kernel, (batch,), arguments, constants)
