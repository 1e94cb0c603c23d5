"""Kernels for non-maximum suppression, with the semantics and arithmetic of `brimful.vision.nms`.

Launch them with `enable_fp_fusion=False`: the compiler would make fused multiply-adds of sums of
products, which round once where the host rounds twice, and an overlap of just the threshold would
then depend on where it was computed.
"""

from __future__ import annotations

import triton.language as tl

from brimful.cuda.kernel import kernel
from brimful.vision.cuda.candidates import key_anchor, key_label
from brimful.vision.cuda.settings import read_iou, read_limit, read_reach


@kernel
def suppress_greedily(
    output: tl.tensor,
    keys: tl.tensor,
    found: tl.tensor,
    block: tl.tensor,
    kept: tl.tensor,
    kept_count: tl.tensor,
    settings: tl.tensor,
    width: tl.tensor,
    anchors: tl.tensor,
    limit: tl.tensor,
    image_stride: tl.tensor,
    anchor_stride: tl.tensor,
    column_stride: tl.tensor,
    OVERLAPS: tl.constexpr,
    BY_CLASS: tl.constexpr,
    LABEL_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Take the best candidate of an image, drop what it overlaps, and so on; best first.

    The program id is the image. More candidates than fit the registers are taken in blocks of
    descending score, as the host does it, until enough are kept.

    Args:
        output: float32, element (image, anchor, column) at the three strides; the first columns
            are cx cy w h.
        keys: int64 (images, anchors), the candidates; 0 is none.
        found: int32 (images,), length of each list.
        block: int64 (images, BLOCK), scratch.
        kept: int64 (images, limit), receives the keys of those that stay.
        kept_count: int32 (images,), receives how many.
        settings: int32 (images, width), what each image takes, as `Settings` writes it: what
            overlaps more than its iou is dropped, and its most detections are the end.
        width: Columns of `settings`.
        anchors: Keys that a list can hold.
        limit: Keys per image that `kept` has room for.
        image_stride: Of `output`, in elements.
        anchor_stride: Of `output`, in elements.
        column_stride: Of `output`, in elements.
        OVERLAPS: False to keep all candidates, only sorted.
        BY_CLASS: Boxes of different classes do not see each other.
        LABEL_BITS: Bits of a key for the class.
        BLOCK: Candidates of a block, a power of two.
    """
    image = tl.program_id(0)
    count = tl.load(found + image)
    output += image.to(tl.int64) * image_stride
    keys += image.to(tl.int64) * anchors
    block += image.to(tl.int64) * BLOCK
    kept += image.to(tl.int64) * limit
    settings += image * width
    iou = read_iou(settings)
    most = read_limit(settings)
    lane = tl.arange(0, BLOCK)
    stay = 0
    above = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)  # all from here on is done
    while (above > 1) & (stay < most):
        if count <= BLOCK:
            key = tl.load(keys + lane, mask=lane < count, other=0)
            above = tl.full((), 1, tl.int64)
        else:
            above = _take_block(keys, count, above, block, BLOCK)
            tl.debug_barrier()
            key = tl.load(block + lane)
        if OVERLAPS:
            anchor = key_anchor(key, LABEL_BITS)
            label = key_label(key, LABEL_BITS)
            x1, y1, x2, y2 = _corners(output, anchor, key > 0, anchor_stride, column_stride)
            for better in range(0, stay):
                top = tl.load(kept + better)
                hit = _overlapped(
                    x1, y1, x2, y2, label, output, top, iou,
                    anchor_stride, column_stride, BY_CLASS, LABEL_BITS,
                )  # fmt: skip
                key = tl.where(hit, 0, key)
        top = tl.max(key, axis=0)
        while (top > 0) & (stay < most):
            tl.store(kept + stay, top)
            stay += 1
            gone = key == top
            if OVERLAPS:
                hit = _overlapped(
                    x1, y1, x2, y2, label, output, top, iou,
                    anchor_stride, column_stride, BY_CLASS, LABEL_BITS,
                )  # fmt: skip
                gone = gone | hit
            key = tl.where(gone, 0, key)
            top = tl.max(key, axis=0)
        tl.debug_barrier()
    tl.store(kept_count + image, stay)


@kernel
def _take_block(
    keys: tl.tensor, count: tl.tensor, above: tl.tensor, block: tl.tensor, BLOCK: tl.constexpr
) -> tl.tensor:
    """Copy the largest keys below `above`, BLOCK at most, to `block`; the rest of it becomes 0.

    Returns the smallest value that a key of the block could have; 1 when no key is left.
    """
    lane = tl.arange(0, BLOCK)
    best = tl.zeros((BLOCK,), tl.int64)
    left = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, count, BLOCK):
        key = tl.load(keys + start + lane, mask=start + lane < count, other=0)
        key = tl.where(key < above, key, 0)
        best = tl.maximum(best, key)
        left += (key > 0).to(tl.int32)
    # Halve the interval until the block is at least half full. Keys are unique, so it will be.
    low = tl.full((), 1, tl.int64)
    high = tl.max(best, axis=0) + 1
    fits = tl.sum(left, axis=0) <= BLOCK
    bound = low
    while fits == 0:
        bound = low + ((high - low) >> 1)
        left = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, count, BLOCK):
            key = tl.load(keys + start + lane, mask=start + lane < count, other=0)
            left += ((key >= bound) & (key < above)).to(tl.int32)
        size = tl.sum(left, axis=0)
        low = tl.where(size > BLOCK, bound, low)
        high = tl.where(size > BLOCK, high, bound)
        fits = (size <= BLOCK) & (size * 2 >= BLOCK)
    size = 0
    for start in range(0, count, BLOCK):
        key = tl.load(keys + start + lane, mask=start + lane < count, other=0)
        chosen = (key >= bound) & (key < above)
        place = size + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
        tl.store(block + place, key, mask=chosen)
        size += tl.sum(chosen.to(tl.int32), axis=0)
    tl.store(block + lane, 0, mask=lane >= size)
    return bound


@kernel
def suppress_rotated(
    output: tl.tensor,
    keys: tl.tensor,
    survivors: tl.tensor,
    found: tl.tensor,
    settings: tl.tensor,
    width: tl.tensor,
    anchors: tl.tensor,
    angle: tl.tensor,
    image_stride: tl.tensor,
    anchor_stride: tl.tensor,
    column_stride: tl.tensor,
    BY_CLASS: tl.constexpr,
    LABEL_BITS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Drop the candidates that any better one overlaps, kept or not: "Fast NMS", arXiv 1904.02689.

    Program ids are (block of candidates, image).

    Args:
        output: float32, element (image, anchor, column) at the three strides; the first columns
            are cx cy w h.
        keys: int64 (images, anchors), the candidates; 0 is none.
        survivors: int64 (images, anchors), receives the same lists with 0 for the dropped.
        found: int32 (images,), length of each list.
        settings: int32 (images, width), what each image takes, as `Settings` writes it: what
            overlaps more than its iou, measured as probiou (arXiv 2106.06072), is dropped.
        width: Columns of `settings`.
        anchors: Keys that a list can hold.
        angle: Column of the angle.
        image_stride: Of `output`, in elements.
        anchor_stride: Of `output`, in elements.
        column_stride: Of `output`, in elements.
        BY_CLASS: Boxes of different classes do not see each other.
        LABEL_BITS: Bits of a key for the class.
        BLOCK: Candidates per program, and rivals that are looked at at a time.
    """
    image = tl.program_id(1)
    count = tl.load(found + image)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if tl.program_id(0) * BLOCK >= count:
        return
    settings += image * width
    iou = read_iou(settings)
    reach = read_reach(settings)
    output += image.to(tl.int64) * image_stride
    keys += image.to(tl.int64) * anchors
    worse = tl.load(keys + place, mask=place < count, other=0)
    mask = worse > 0
    box = output + key_anchor(worse, LABEL_BITS).to(tl.int64) * anchor_stride
    cx, cy, near = _reach(box, mask, reach, column_stride)
    xx, yy, xy = _covariance(box, mask, angle, column_stride)
    own_worse = _at_least_0(xx * yy - xy * xy)
    gone = tl.zeros((BLOCK,), tl.int32)
    lane = tl.arange(0, BLOCK)
    for start in range(0, count, BLOCK):
        better = tl.load(keys + start + lane, mask=start + lane < count, other=0)
        rival = (better[:, None] > worse[None, :]) & mask[None, :]
        if BY_CLASS:
            left, right = key_label(better, LABEL_BITS), key_label(worse, LABEL_BITS)
            rival = rival & (left[:, None] == right[None, :])
        box = output + key_anchor(better, LABEL_BITS).to(tl.int64) * anchor_stride
        bx, by, bnear = _reach(box, better > 0, reach, column_stride)
        dx = bx[:, None] - cx[None, :]
        dy = by[:, None] - cy[None, :]
        rival = rival & (dx * dx + dy * dy <= bnear[:, None] + near[None, :])
        if tl.max(tl.max(rival.to(tl.int32), axis=1), axis=0) > 0:
            # probiou, in the host's order of operations
            bxx, byy, bxy = _covariance(box, better > 0, angle, column_stride)
            own_better = _at_least_0(bxx * byy - bxy * bxy)
            sxx = bxx[:, None] + xx[None, :]
            syy = byy[:, None] + yy[None, :]
            sxy = bxy[:, None] + xy[None, :]
            determinant = sxx * syy - sxy * sxy
            distance = sxx * dy * dy + syy * dx * dx - 2.0 * sxy * dx * dy
            distance = tl.div_rn(tl.div_rn(distance, determinant + 1e-7), 4.0)
            own = own_better[:, None] * own_worse[None, :]
            ratio = tl.div_rn(determinant, 4.0 * tl.sqrt_rn(own) + 1e-7)
            total = distance + tl.div_rn(tl.log(ratio + 1e-7), 2.0)
            total = tl.where(total < 1e-7, 1e-7, tl.where(total > 100.0, 100.0, total))
            similarity = 1.0 - tl.sqrt_rn(1.0 - tl.exp(-total) + 1e-7)
            hit = rival & (similarity > iou)
            gone |= tl.max(hit.to(tl.int32), axis=0)
    survivors += image.to(tl.int64) * anchors
    tl.store(survivors + place, tl.where(gone > 0, 0, worse), mask=place < count)


@kernel
def _corners(
    output: tl.tensor,
    anchor: tl.tensor,
    mask: tl.tensor,
    anchor_stride: tl.tensor,
    column_stride: tl.tensor,
) -> tl.tensor:
    """Return x1, y1, x2, y2 of anchors' boxes."""
    box = output + anchor.to(tl.int64) * anchor_stride
    cx = tl.load(box, mask=mask, other=0.0)
    cy = tl.load(box + column_stride, mask=mask, other=0.0)
    half_width = tl.load(box + 2 * column_stride, mask=mask, other=0.0) * 0.5
    half_height = tl.load(box + 3 * column_stride, mask=mask, other=0.0) * 0.5
    return cx - half_width, cy - half_height, cx + half_width, cy + half_height


@kernel
def _overlapped(
    x1: tl.tensor,
    y1: tl.tensor,
    x2: tl.tensor,
    y2: tl.tensor,
    label: tl.tensor,
    output: tl.tensor,
    top: tl.tensor,
    iou: tl.tensor,
    anchor_stride: tl.tensor,
    column_stride: tl.tensor,
    BY_CLASS: tl.constexpr,
    LABEL_BITS: tl.constexpr,
) -> tl.tensor:
    """Tell which boxes the candidate with the key `top` overlaps by more than `iou`."""
    anchor = key_anchor(top, LABEL_BITS)
    u1, v1, u2, v2 = _corners(output, anchor, top > 0, anchor_stride, column_stride)
    width = tl.maximum(tl.minimum(x2, u2) - tl.maximum(x1, u1), 0.0)
    height = tl.maximum(tl.minimum(y2, v2) - tl.maximum(y1, v1), 0.0)
    shared = width * height
    union = (u2 - u1) * (v2 - v1) + (x2 - x1) * (y2 - y1) - shared
    hit = tl.div_rn(shared, union) > iou
    if BY_CLASS:
        hit = hit & (label == key_label(top, LABEL_BITS))
    return hit


@kernel
def _reach(
    box: tl.tensor, mask: tl.tensor, reach: tl.tensor, column_stride: tl.tensor
) -> tl.tensor:
    """Return cx and cy of boxes, and the squared distance at which they still overlap."""
    cx = tl.load(box, mask=mask, other=0.0)
    cy = tl.load(box + column_stride, mask=mask, other=0.0)
    width = tl.load(box + 2 * column_stride, mask=mask, other=0.0)
    height = tl.load(box + 3 * column_stride, mask=mask, other=0.0)
    side = tl.maximum(tl.abs(width), tl.abs(height))
    return cx, cy, reach * side * side + 1e-3


@kernel
def _covariance(
    box: tl.tensor, mask: tl.tensor, angle: tl.tensor, column_stride: tl.tensor
) -> tl.tensor:
    """Return var(x), var(y) and cov(x, y) of rotated boxes."""
    width = tl.load(box + 2 * column_stride, mask=mask, other=0.0)
    height = tl.load(box + 3 * column_stride, mask=mask, other=0.0)
    turn = tl.load(box + angle * column_stride, mask=mask, other=0.0)
    along = tl.div_rn(width * width, 12.0)
    across = tl.div_rn(height * height, 12.0)
    cos, sin = tl.cos(turn), tl.sin(turn)
    return (
        along * cos * cos + across * sin * sin,
        along * sin * sin + across * cos * cos,
        (along - across) * cos * sin,
    )


@kernel
def _at_least_0(value: tl.tensor) -> tl.tensor:
    """Return the value or 0; NaN stays NaN, as numpy has it."""
    return tl.where(value < 0.0, 0.0, value)
