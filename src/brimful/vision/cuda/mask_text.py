"""Kernels that write masks as COCO's compressed run lengths, from where they change.

The format is that of `rleToString` in the COCO API (maskApi.c), see `brimful.formats.rle`.
"""

from __future__ import annotations

import triton.language as tl

from brimful.cuda.kernel import kernel


@kernel
def measure_text(
    counts: tl.tensor,
    geometry: tl.tensor,
    boxes: tl.tensor,
    columns: tl.tensor,
    offsets: tl.tensor,
    changes: tl.tensor,
    found: tl.tensor,
    sizes: tl.tensor,
    limit: tl.tensor,
    column_room: tl.tensor,
    room: tl.tensor,
    text_room: tl.tensor,
    programs: tl.tensor,
    GEOMETRY: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Find out how long the text of each mask is; ids are (image, one of `programs`).

    Args:
        counts: int32 (images,), rows of each.
        geometry: float64 (images, GEOMETRY), see `mask_changes`, as for the next ones.
        boxes: int32 (images, limit, 4).
        columns: int32 (images, limit + 1).
        offsets: int32 (images, column_room + 1).
        changes: int32 (images, room); runs that a column's end cuts in two are joined there.
        found: int32 (images, limit), receives the changes that each mask has then.
        sizes: int32 (images, limit), receives the bytes of each text, 0 for a mask without a
            pixel, more than `text_room` for one that had no room.
        limit: Rows of an image at most.
        column_room: Columns of an image at most.
        room: Changes of an image at most.
        text_room: Bytes of an image at most.
        programs: Programs per image.
        GEOMETRY: Columns of `geometry`.
        CHUNK: Changes that are looked at at a time.
    """
    image = tl.program_id(0)
    count = tl.load(counts + image)
    entry = geometry + image * GEOMETRY
    wide, high = tl.load(entry + 5).to(tl.int32), tl.load(entry + 6).to(tl.int32)
    columns += image.to(tl.int64) * (limit + 1)
    offsets += image.to(tl.int64) * (column_room + 1)
    changes += image.to(tl.int64) * room
    boxes += image.to(tl.int64) * limit * 4
    lane = tl.arange(0, CHUNK)
    for row in range(tl.program_id(1), count, programs):
        first, end = tl.load(columns + row), tl.load(columns + row + 1)
        fits = end <= column_room
        begin = tl.load(offsets + first, mask=fits, other=0)
        stop = tl.load(offsets + end, mask=fits, other=0)
        fits = fits & (stop <= room)
        own = changes + begin
        stay = tl.where(fits, stop - begin, 0)
        if tl.load(boxes + row * 4 + 3) - tl.load(boxes + row * 4 + 1) == high:
            stay = _join(own, stay, CHUNK)
        values = _values(own, stay, high * wide)
        size = tl.zeros((), tl.int32)
        for start in range(0, values, CHUNK):
            value = _value(own, stay, start + lane, high * wide)
            size += tl.sum(tl.where(start + lane < values, _characters(value), 0), axis=0)
        at = image.to(tl.int64) * limit + row
        tl.store(found + at, stay)
        tl.store(sizes + at, tl.where(fits, tl.minimum(size, text_room + 1), text_room + 1))


@kernel
def write_text(
    counts: tl.tensor,
    geometry: tl.tensor,
    columns: tl.tensor,
    offsets: tl.tensor,
    changes: tl.tensor,
    found: tl.tensor,
    sizes: tl.tensor,
    lengths: tl.tensor,
    text: tl.tensor,
    limit: tl.tensor,
    column_room: tl.tensor,
    room: tl.tensor,
    text_room: tl.tensor,
    programs: tl.tensor,
    GEOMETRY: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Write the text of each mask behind those of the image's masks before it.

    Program ids are (image, one of `programs`). `lengths` and `text` may be pinned host memory.

    Args:
        counts: int32 (images,), as all of the next for `measure_text`.
        geometry: float64 (images, GEOMETRY).
        columns: int32 (images, limit + 1).
        offsets: int32 (images, column_room + 1).
        changes: int32 (images, room).
        found: int32 (images, limit).
        sizes: int32 (images, limit).
        lengths: int32 (images, limit), receives the bytes of each text; -1 when it was not written.
        text: uint8 (images, text_room), receives the texts, an image's without gaps.
        limit: Rows of an image at most.
        column_room: Columns of an image at most.
        room: Changes of an image at most.
        text_room: Bytes of an image at most.
        programs: Programs per image.
        GEOMETRY: Columns of `geometry`.
        CHUNK: Changes, or rows, that are looked at at a time.
    """
    image = tl.program_id(0)
    count = tl.load(counts + image)
    entry = geometry + image * GEOMETRY
    wide, high = tl.load(entry + 5).to(tl.int32), tl.load(entry + 6).to(tl.int32)
    columns += image.to(tl.int64) * (limit + 1)
    offsets += image.to(tl.int64) * (column_room + 1)
    changes += image.to(tl.int64) * room
    found += image.to(tl.int64) * limit
    sizes += image.to(tl.int64) * limit
    lengths += image.to(tl.int64) * limit
    text += image.to(tl.int64) * text_room
    lane = tl.arange(0, CHUNK)
    for row in range(tl.program_id(1), count, programs):
        before = tl.zeros((), tl.int64)
        for start in range(0, row, CHUNK):
            size = tl.load(sizes + start + lane, mask=start + lane < row, other=0)
            before += tl.sum(size.to(tl.int64), axis=0)
        length = tl.load(sizes + row)
        # Where one did not fit, none behind it does: who falls out depends on the image alone.
        fits = before + length <= text_room
        tl.store(lengths + row, tl.where(fits, length, -1))
        if fits & (length > 0):
            own = changes + tl.load(offsets + tl.load(columns + row))
            stay = tl.load(found + row)
            values = _values(own, stay, high * wide)
            target = text + before
            for start in range(0, values, CHUNK):
                here = start + lane < values
                value = _value(own, stay, start + lane, high * wide)
                size = tl.where(here, _characters(value), 0)
                place = tl.cumsum(size, axis=0) - size
                for position in range(0, tl.max(size, axis=0)):
                    more = (position + 1 < size).to(tl.int32)
                    character = (value & 31) + 32 * more + 48
                    here = position < size
                    tl.store(target + place + position, character.to(tl.uint8), mask=here)
                    value = value >> 5
                target += tl.sum(size, axis=0)


@kernel
def _join(own: tl.tensor, count: tl.tensor, CHUNK: tl.constexpr) -> tl.tensor:
    """Remove changes that annul each other, and return how many stay.

    A run ends where the next begins only at a column's end, in a box as high as the image.
    """
    lane = tl.arange(0, CHUNK)
    stay = tl.zeros((), tl.int32)
    for start in range(0, count, CHUNK):
        at = start + lane
        here = at < count
        value = tl.load(own + at, mask=here, other=0)
        is_end = at & 1
        # Nothing was written there yet, or, if nothing was removed, the same.
        other = at - 1 + 2 * is_end
        partner = tl.load(own + other, mask=here & (other >= 0) & (other < count), other=-1)
        kept = here & (partner != value)
        place = stay + tl.cumsum(kept.to(tl.int32), axis=0) - 1
        tl.debug_barrier()
        tl.store(own + place, value, mask=kept)
        stay += tl.sum(kept.to(tl.int32), axis=0)
        tl.debug_barrier()
    return stay


@kernel
def _values(own: tl.tensor, count: tl.tensor, pixels: tl.tensor) -> tl.tensor:
    """Return the number of run lengths of a mask: none without a change."""
    last = tl.load(own + count - 1, mask=count > 0, other=0)
    return tl.where(count > 0, count + (last < pixels).to(tl.int32), 0)


@kernel
def _value(own: tl.tensor, count: tl.tensor, at: tl.tensor, pixels: tl.tensor) -> tl.tensor:
    """Return run lengths as they are written: from the fourth on less the one two before."""
    end = tl.load(own + at, mask=at < count, other=0)
    end = tl.where(at == count, pixels, end)
    begin = tl.load(own + at - 1, mask=(at > 0) & (at <= count), other=0)
    known = (at > 2) & (at <= count)
    older = tl.load(own + at - 2, mask=known, other=0) - tl.load(own + at - 3, mask=known, other=0)
    return (end - begin) - older


@kernel
def _characters(value: tl.tensor) -> tl.tensor:
    """Return how many characters of five bits an int32 takes, its sign included."""
    size = value ^ (value >> 31)
    count = 1 + (size >= 1 << 4).to(tl.int32) + (size >= 1 << 9).to(tl.int32)
    count += (size >= 1 << 14).to(tl.int32) + (size >= 1 << 19).to(tl.int32)
    return count + (size >= 1 << 24).to(tl.int32) + (size >= 1 << 29).to(tl.int32)
