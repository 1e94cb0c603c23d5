"""Kernels from a head's output to the candidates of each image, as sortable keys.

A key says all there is to know of a candidate: 32 bits of its score (above 0, so that the bits of
the float order as the float does), and below them anchor and class, complemented. The largest key
is the best candidate, and of equal scores the one that the host's stable sort has first. So the
order in which candidates are written does not matter, and atomics may decide it.
"""

from __future__ import annotations

import triton.language as tl

from brimful.cuda.kernel import kernel
from brimful.vision.cuda.settings import read_conf, read_filter, read_wanted

KEY_BITS = 31
"""Bits of a key for anchor and class together."""

LOW = tl.constexpr((1 << KEY_BITS) - 1)


@kernel
def find_candidates(
    output: tl.tensor,
    live: tl.tensor,
    keys: tl.tensor,
    found: tl.tensor,
    settings: tl.tensor,
    width: tl.tensor,
    anchors: tl.tensor,
    classes: tl.tensor,
    image_stride: tl.tensor,
    anchor_stride: tl.tensor,
    column_stride: tl.tensor,
    OBJECTNESS: tl.constexpr,
    LABEL_BITS: tl.constexpr,
    ANCHORS: tl.constexpr,
    CLASSES: tl.constexpr,
) -> None:
    """Append the keys of up to ANCHORS anchors of an image to its list.

    Program ids are (block of anchors, image). An anchor is a candidate if its best class scores
    above the image's conf, is wanted, no class score is NaN and its box is finite.

    Args:
        output: float32, element (image, anchor, column) at the three strides.
        live: int32 (1,), images to look at.
        keys: int64 (images, anchors), the lists.
        found: int32 (images,), their lengths, 0 at the start.
        settings: int32 (images, width), what each image takes, as `Settings` writes it.
        width: Columns of `settings`.
        anchors: Anchors per image.
        classes: Classes of the model.
        image_stride: Of `output`, in elements.
        anchor_stride: Of `output`, in elements.
        column_stride: Of `output`, in elements.
        OBJECTNESS: Column 4 is an objectness that multiplies the class scores behind it.
        LABEL_BITS: Bits of a key for the class.
        ANCHORS: Anchors per program.
        CLASSES: Classes that are loaded at a time.
    """
    image = tl.program_id(1)
    if image >= tl.load(live):
        return
    settings += image * width
    conf = read_conf(settings)
    anchor = tl.program_id(0) * ANCHORS + tl.arange(0, ANCHORS)
    lane = tl.arange(0, CLASSES)
    row = output + image.to(tl.int64) * image_stride + anchor.to(tl.int64) * anchor_stride
    good = anchor < anchors
    scores = row + 4 * column_stride
    objectness = tl.full((ANCHORS,), 1.0, tl.float32)
    if OBJECTNESS:
        objectness = tl.load(scores, mask=good, other=0.0)
        good = good & (objectness > conf)
        if tl.max(good.to(tl.int32), axis=0) == 0:  # as nearly everywhere
            return
        scores += column_stride
    best = tl.full((ANCHORS,), float("-inf"), tl.float32)
    label = tl.zeros((ANCHORS,), tl.int32)
    broken = tl.zeros((ANCHORS,), tl.int32)
    for first in range(0, classes, CLASSES):
        column = first + lane
        score = tl.load(
            scores[:, None] + (column * column_stride)[None, :],
            mask=good[:, None] & (column < classes)[None, :],
            other=float("-inf"),
        )
        if OBJECTNESS:
            score *= objectness[:, None]
        nan = score != score
        broken |= tl.max(nan.to(tl.int32), axis=1)
        score = tl.where(nan, float("-inf"), score)
        top = tl.max(score, axis=1)
        at = tl.min(tl.where(score == top[:, None], column[None, :], classes), axis=1)
        label = tl.where(top > best, at, label)
        best = tl.maximum(best, top)
    good = good & (best > conf) & (broken == 0)
    if read_filter(settings) != 0:
        good = good & read_wanted(settings, label, good)
    # summed in the host's order, which decides what overflows
    total = tl.load(row, mask=good, other=0.0)
    total += tl.load(row + column_stride, mask=good, other=0.0)
    total += tl.load(row + 2 * column_stride, mask=good, other=0.0)
    total += tl.load(row + 3 * column_stride, mask=good, other=0.0)
    good = good & (tl.abs(total) < float("inf"))
    place = tl.cumsum(good.to(tl.int32), axis=0)
    count = tl.max(place, axis=0)
    if count > 0:
        place += tl.atomic_add(found + image, count, sem="relaxed") - 1
        score_bits = best.to(tl.int32, bitcast=True).to(tl.int64)
        order = ((anchor << LABEL_BITS) | label).to(tl.int64)
        key = (score_bits << 32) | (order ^ LOW)
        tl.store(keys + image.to(tl.int64) * anchors + place, key, mask=good)


@kernel
def keep_best(
    keys: tl.tensor, found: tl.tensor, anchors: tl.tensor, limit: tl.tensor, CHUNK: tl.constexpr
) -> None:
    """Clear all keys of an image but the `limit` largest; the program id is the image.

    Args:
        keys: int64 (images, anchors), the lists; cleared means 0.
        found: int32 (images,), their lengths.
        anchors: Keys that a list can hold.
        limit: Keys that may stay.
        CHUNK: Keys that are looked at at a time.
    """
    image = tl.program_id(0)
    count = tl.load(found + image)
    if count <= limit:
        return
    keys += image.to(tl.int64) * anchors
    lane = tl.arange(0, CHUNK)
    # keys are unique: the largest bound that leaves at least `limit` of them leaves just these
    bound = tl.zeros((), tl.int64)
    for step in range(0, 63):
        higher = bound + (tl.full((), 1, tl.int64) << (62 - step))
        above = tl.zeros((CHUNK,), tl.int32)
        for start in range(0, count, CHUNK):
            key = tl.load(keys + start + lane, mask=start + lane < count, other=0)
            above += (key >= higher).to(tl.int32)
        bound = tl.where(tl.sum(above, axis=0) >= limit, higher, bound)
    for start in range(0, count, CHUNK):
        key = tl.load(keys + start + lane, mask=start + lane < count, other=0)
        tl.store(keys + start + lane, 0, mask=(start + lane < count) & (key < bound))


@kernel
def key_score(key: tl.tensor) -> tl.tensor:
    """Return the score, float32, of keys."""
    return (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@kernel
def key_anchor(key: tl.tensor, LABEL_BITS: tl.constexpr) -> tl.tensor:
    """Return the anchor, int32, of keys."""
    return ((key & LOW) ^ LOW).to(tl.int32) >> LABEL_BITS


@kernel
def key_label(key: tl.tensor, LABEL_BITS: tl.constexpr) -> tl.tensor:
    """Return the class, int32, of keys."""
    return ((key & LOW) ^ LOW).to(tl.int32) & ((1 << LABEL_BITS) - 1)
