"""Kernels from prototypes to where masks change, with the arithmetic of `brimful.vision.masks`.

A mask is never stored as pixels. A program computes 32 columns of one from top to bottom, 32 rows
at a time, packs each column's rows into a word, and looks for bits that differ from the bit above.
It does so twice: changes are counted first, which says where each column's may be written.

Launch them with `enable_fp_fusion=False`: weights must be rounded where the host rounds them.
"""

from __future__ import annotations

import triton.language as tl

from brimful.cuda.kernel import kernel

GEOMETRY = 16
"""Columns, float64, of the row that describes an image: 1 if it is known where the image lies, its
padding to the left and above, its gain across and down, its width and height; of the vertical
`Axis`, start, count, count / target and the rows per step; the same of the horizontal one; and
1 / factor."""

TILE = 32
"""Columns and rows of a mask that are computed at a time: a row is a bit of a word."""

WINDOW = 16
"""Prototype pixels, each way, that a tile may draw from: what a matrix product takes at least."""


@kernel
def place_masks(
    rows: tl.tensor,
    counts: tl.tensor,
    geometry: tl.tensor,
    first_row: tl.tensor,
    boxes: tl.tensor,
    columns: tl.tensor,
    used: tl.tensor,
    blocks: tl.tensor,
    width: tl.tensor,
    limit: tl.tensor,
    room: tl.tensor,
    GEOMETRY: tl.constexpr,
    IMAGES: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Take an image's boxes to its own pixels, and number their columns; the program id is it.

    Args:
        rows: float32 (rows, width), `x1 y1 x2 y2 score class coefficients...` in canvas pixels, of
            all images without gaps.
        counts: int32 (images,), rows of each.
        geometry: float64 (images, GEOMETRY).
        first_row: int32 (images,), receives where an image's rows begin.
        boxes: int32 (images, limit, 4), receives the pixels inside, `left top right bottom`.
        columns: int32 (images, limit + 1), receives the first column of each row's mask among
            those of the image, and the end of the last; beyond `room` is no room.
        used: int32 (images,), receives the columns of the rows that have room.
        blocks: int32 (images, limit + 1), receives the same as `columns` for blocks of columns.
        width: Columns of `rows`.
        limit: Rows of an image at most.
        room: Columns of an image at most.
        GEOMETRY: Columns of `geometry`.
        IMAGES: Power of two, at least the images.
        CHUNK: Rows that are looked at at a time.
    """
    image = tl.program_id(0)
    count = tl.load(counts + image)
    lane = tl.arange(0, IMAGES)
    before = tl.sum(tl.load(counts + lane, mask=lane < image, other=0), axis=0)
    tl.store(first_row + image, before)
    entry = geometry + image * GEOMETRY
    # of an image whose place is not known, no row has room
    added = (tl.load(entry) == 0.0).to(tl.int32) * (room + 1)
    pad_x, pad_y = tl.load(entry + 1).to(tl.float32), tl.load(entry + 2).to(tl.float32)
    gain_x, gain_y = tl.load(entry + 3).to(tl.float32), tl.load(entry + 4).to(tl.float32)
    wide, high = tl.load(entry + 5).to(tl.float32), tl.load(entry + 6).to(tl.float32)
    step = tl.maximum(tl.load(entry + 14).to(tl.int32), 1)
    boxes += image.to(tl.int64) * limit * 4
    columns += image.to(tl.int64) * (limit + 1)
    blocks += image.to(tl.int64) * (limit + 1)
    tl.store(columns, 0)
    tl.store(blocks, 0)
    lane = tl.arange(0, CHUNK)
    taken = tl.zeros((), tl.int64)
    block = tl.zeros((), tl.int32)
    held = tl.zeros((), tl.int64)
    for start in range(0, count, CHUNK):
        at = start + lane
        mask = at < count
        row = rows + (before + at).to(tl.int64) * width
        left = _corner(row, mask, pad_x, gain_x, wide)
        top = _corner(row + 1, mask, pad_y, gain_y, high)
        right = _corner(row + 2, mask, pad_x, gain_x, wide)
        bottom = _corner(row + 3, mask, pad_y, gain_y, high)
        there = mask & (right > left) & (bottom > top)
        size = tl.where(there, right - left, 0)
        size = tl.where(mask, size + added, 0)
        end = taken + tl.cumsum(size.to(tl.int64), axis=0)
        fits = mask & (end <= room)
        parts = tl.where(fits, (size + step - 1) // step, 0)
        tl.store(boxes + at * 4, left, mask=mask)
        tl.store(boxes + at * 4 + 1, top, mask=mask)
        tl.store(boxes + at * 4 + 2, right, mask=mask)
        tl.store(boxes + at * 4 + 3, bottom, mask=mask)
        tl.store(columns + at + 1, tl.minimum(end, room + 1).to(tl.int32), mask=mask)
        tl.store(blocks + at + 1, block + tl.cumsum(parts, axis=0), mask=mask)
        held = tl.maximum(held, tl.max(tl.where(fits, end, 0), axis=0))
        taken += tl.sum(size.to(tl.int64), axis=0)
        block += tl.sum(parts, axis=0)
    tl.store(used + image, held.to(tl.int32))


@kernel
def find_changes(
    prototypes: tl.tensor,
    rows: tl.tensor,
    counts: tl.tensor,
    geometry: tl.tensor,
    first_row: tl.tensor,
    boxes: tl.tensor,
    columns: tl.tensor,
    blocks: tl.tensor,
    offsets: tl.tensor,
    changes: tl.tensor,
    width: tl.tensor,
    limit: tl.tensor,
    column_room: tl.tensor,
    room: tl.tensor,
    grid_height: tl.tensor,
    grid_width: tl.tensor,
    image_stride: tl.tensor,
    channel_stride: tl.tensor,
    row_stride: tl.tensor,
    column_stride: tl.tensor,
    programs: tl.tensor,
    WRITE: tl.constexpr,
    GEOMETRY: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    CHANNELS: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Count the changes down each column of an image's masks, or write them.

    Program ids are (image, one of `programs` that share its blocks of columns). A change is a pixel
    that differs from the one above it; above and below its box a mask is 0. Pixels are numbered
    down the columns of the image, as COCO's run lengths have it.

    Args:
        prototypes: float32, element (image, channel, row, column) at the four strides.
        rows: As for `place_masks`, which wrote the next ones, too.
        counts: int32 (images,).
        geometry: float64 (images, GEOMETRY).
        first_row: int32 (images,).
        boxes: int32 (images, limit, 4).
        columns: int32 (images, limit + 1).
        blocks: int32 (images, limit + 1).
        offsets: int32 (images, column_room + 1), receives the number of changes of each column;
            with WRITE, has where they begin, and the end of the last.
        changes: int32 (images, room), receives the numbers of the pixels with WRITE.
        width: Columns of `rows`.
        limit: Rows of an image at most.
        column_room: Columns of an image at most.
        room: Changes of an image at most; a mask that would end beyond is not written.
        grid_height: Of the prototypes.
        grid_width: Of the prototypes.
        image_stride: Of `prototypes`, in elements.
        channel_stride: Of `prototypes`, in elements.
        row_stride: Of `prototypes`, in elements.
        column_stride: Of `prototypes`, in elements.
        programs: Programs per image.
        WRITE: Write changes instead of counting them.
        GEOMETRY: Columns of `geometry`.
        TILE: Columns and rows that are computed at a time, 32.
        WINDOW: Prototype pixels, each way, that these draw from.
        CHANNELS: Of the prototypes.
        CHUNK: Rows that are searched at a time.
    """
    image = tl.program_id(0)
    count = tl.load(counts + image)
    columns += image.to(tl.int64) * (limit + 1)
    blocks += image.to(tl.int64) * (limit + 1)
    offsets += image.to(tl.int64) * (column_room + 1)
    changes += image.to(tl.int64) * room
    boxes += image.to(tl.int64) * limit * 4
    prototypes += image.to(tl.int64) * image_stride
    rows += tl.load(first_row + image).to(tl.int64) * width
    entry = geometry + image * GEOMETRY
    high = tl.load(entry + 6).to(tl.int32)
    row_step = tl.maximum(tl.load(entry + 10).to(tl.int32), 1)
    column_step = tl.maximum(tl.load(entry + 14).to(tl.int32), 1)
    vertical, horizontal = entry + 7, entry + 11
    finer = tl.load(entry + 15)
    search = tl.arange(0, CHUNK)
    lane = tl.arange(0, TILE)
    near = tl.arange(0, WINDOW)
    for block in range(tl.program_id(1), tl.load(blocks + count), programs):
        row = tl.zeros((), tl.int32)
        for start in range(0, count, CHUNK):
            here = start + search < count
            ends = tl.load(blocks + 1 + start + search, mask=here, other=0x7FFFFFFF)
            row += tl.sum((ends <= block).to(tl.int32), axis=0)
        box = boxes + row * 4
        left, top = tl.load(box), tl.load(box + 1)
        right, bottom = tl.load(box + 2), tl.load(box + 3)
        x = left + (block - tl.load(blocks + row)) * column_step + lane
        good_x = (lane < column_step) & (x < right)
        place = tl.load(columns + row) + x - left
        words = (bottom - top) // TILE + 1  # the last one has a row below the box at least
        if WRITE:
            target = tl.load(offsets + place, mask=good_x, other=0)
            if tl.load(offsets + tl.load(columns + row + 1)) > room:
                words = 0
        found = tl.zeros((TILE,), tl.int32)
        above = tl.zeros((TILE,), tl.int32)
        coefficients = rows + row.to(tl.int64) * width + 6
        first_x, last_x = _support(x, good_x, horizontal, finer, grid_width)
        across = _weights(x, first_x + near, horizontal, finer, grid_width)
        for word in range(0, words):
            bits = tl.zeros((TILE,), tl.int32)
            for part in range(0, TILE // row_step):
                shift = part * row_step
                y = top + word * TILE + shift + lane
                good_y = (lane < row_step) & (y < bottom)
                if top + word * TILE + shift < bottom:
                    first_y, last_y = _support(y, good_y, vertical, finer, grid_height)
                    down = _weights(y, first_y + near, vertical, finer, grid_height)
                    py, px = first_y + near, first_x + near
                    inside = (py <= last_y)[:, None] & (px <= last_x)[None, :]
                    spot = py[:, None] * row_stride + px[None, :] * column_stride
                    logits = _logits(
                        prototypes, coefficients, spot, inside, channel_stride, WINDOW, CHANNELS
                    )  # fmt: skip
                    # the host's order: columns first, then rows
                    wide = tl.dot(across, tl.trans(logits), input_precision="ieee")
                    value = tl.dot(wide, tl.trans(down), input_precision="ieee")
                    set_here = (value > 0.0) & good_y[None, :]
                    bit = tl.full((TILE,), 1, tl.int32) << lane
                    packed = tl.sum(tl.where(set_here, bit[None, :], 0), axis=1).to(tl.int32)
                    bits |= packed << shift
            bits = tl.where(good_x, bits, 0)
            changed = bits ^ ((bits << 1) | above)
            above = (bits >> 31) & 1
            if WRITE:
                pixel = x * high + top + word * TILE
                while tl.sum((changed != 0).to(tl.int32), axis=0) > 0:
                    lowest = changed & (0 - changed)
                    now = changed != 0
                    tl.store(changes + target + found, pixel + _ones(lowest - 1), mask=now)
                    found += now.to(tl.int32)
                    changed ^= lowest
            else:
                found += _ones(changed)
        if not WRITE:
            tl.store(offsets + place, found, mask=good_x)


@kernel
def place_changes(
    used: tl.tensor,
    offsets: tl.tensor,
    column_room: tl.tensor,
    room: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    """Turn the numbers of changes of an image's columns into offsets; the program id is the image.

    Args:
        used: int32 (images,), columns of each.
        offsets: int32 (images, column_room + 1), numbers that become offsets, and the end of the
            last; beyond `room` is no room.
        column_room: Columns of an image at most.
        room: Changes of an image at most.
        CHUNK: Columns that are looked at at a time.
    """
    image = tl.program_id(0)
    count = tl.load(used + image)
    offsets += image.to(tl.int64) * (column_room + 1)
    lane = tl.arange(0, CHUNK)
    total = tl.zeros((), tl.int64)
    for start in range(0, count, CHUNK):
        here = start + lane < count
        own = tl.load(offsets + start + lane, mask=here, other=0).to(tl.int64)
        before = total + tl.cumsum(own, axis=0) - own
        tl.debug_barrier()
        tl.store(offsets + start + lane, tl.minimum(before, room + 1).to(tl.int32), mask=here)
        total += tl.sum(own, axis=0)
    tl.store(offsets + count, tl.minimum(total, room + 1).to(tl.int32))


@kernel
def _corner(
    at: tl.tensor, mask: tl.tensor, padding: tl.tensor, gain: tl.tensor, size: tl.tensor
) -> tl.tensor:
    """Return the first pixel of the image, int32, at or behind a coordinate on the canvas."""
    value = tl.div_rn(tl.load(at, mask=mask, other=0.0) - padding, gain)
    return tl.ceil(tl.minimum(tl.maximum(value, 0.0), size)).to(tl.int32)


@kernel
def _between(place: tl.tensor, scale: tl.tensor, count: tl.tensor) -> tl.tensor:
    """Return which of `count` pixels a resized pixel lies behind, and how far, for `_interpolate`.

    In float64, as the host has it.
    """
    spot = (place.to(tl.float64) + 0.5) * scale - 0.5
    spot = tl.minimum(tl.maximum(spot, 0.0), (count - 1).to(tl.float64))
    low = spot.to(tl.int32)
    return low, (spot - low.to(tl.float64)).to(tl.float32)


@kernel
def _enlarged(place: tl.tensor, pixel: tl.tensor, finer: tl.tensor, grid: tl.tensor) -> tl.tensor:
    """Return the weights of prototype pixels (1, k) in enlarged ones (n,)."""
    low, weight = _between(place, finer, grid)
    high = tl.minimum(low + 1, grid - 1)
    one = tl.where(pixel == low[:, None], 1.0 - weight[:, None], 0.0)
    return one + tl.where(pixel == high[:, None], weight[:, None], 0.0)


@kernel
def _weights(
    place: tl.tensor, pixel: tl.tensor, axis: tl.tensor, finer: tl.tensor, grid: tl.tensor
) -> tl.tensor:
    """Return the weights (n, k) of prototype pixels (k,) in pixels (n,) of the image."""
    start, count = tl.load(axis).to(tl.int32), tl.load(axis + 1).to(tl.int32)
    low, weight = _between(place, tl.load(axis + 2), count)
    high = tl.minimum(low + 1, count - 1)
    one = _enlarged(start + low, pixel[None, :], finer, grid) * (1.0 - weight)[:, None]
    return one + _enlarged(start + high, pixel[None, :], finer, grid) * weight[:, None]


@kernel
def _support(
    place: tl.tensor, good: tl.tensor, axis: tl.tensor, finer: tl.tensor, grid: tl.tensor
) -> tl.tensor:
    """Return the first and the last prototype pixel that pixels of the image draw from."""
    start, count = tl.load(axis).to(tl.int32), tl.load(axis + 1).to(tl.int32)
    low, _ = _between(place, tl.load(axis + 2), count)
    first, _ = _between(start + low, finer, grid)
    last, _ = _between(start + tl.minimum(low + 1, count - 1), finer, grid)
    first = tl.min(tl.where(good, first, 0x7FFFFFFF), axis=0)
    return first, tl.max(tl.where(good, tl.minimum(last + 1, grid - 1), 0), axis=0)


@kernel
def _logits(
    prototypes: tl.tensor,
    coefficients: tl.tensor,
    spot: tl.tensor,
    inside: tl.tensor,
    channel_stride: tl.tensor,
    WINDOW: tl.constexpr,
    CHANNELS: tl.constexpr,
) -> tl.tensor:
    """Return the weighted sum of the prototypes in a window, 0 outside of `inside`."""
    # A sector of memory at a time: more of the channels at once would not fit the registers.
    lane = tl.arange(0, 8)
    total = tl.zeros((WINDOW, WINDOW, 8), tl.float32)
    for start in tl.static_range(0, CHANNELS, 8):
        channel = start + lane
        real = channel < CHANNELS
        weight = tl.load(coefficients + channel, mask=real, other=0.0)
        value = tl.load(
            prototypes + spot[:, :, None] + (channel * channel_stride)[None, None, :],
            mask=inside[:, :, None] & real[None, None, :],
            other=0.0,
        )
        total += value * weight[None, None, :]
    return tl.sum(total, axis=2)


@kernel
def _ones(value: tl.tensor) -> tl.tensor:
    """Return how many bits of an int32 are set."""
    value = value - ((value >> 1) & 0x55555555)
    value = (value & 0x33333333) + ((value >> 2) & 0x33333333)
    value = (value + (value >> 4)) & 0x0F0F0F0F
    return (value + (value >> 8) + (value >> 16) + (value >> 24)) & 0x3F
