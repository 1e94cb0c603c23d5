"""Kernels that choose the rows of an NMS-free head, and that write all rows to the host."""

from __future__ import annotations

import triton.language as tl

from brimful.cuda.kernel import kernel
from brimful.vision.cuda.candidates import key_anchor, key_label, key_score
from brimful.vision.cuda.settings import read_conf, read_filter, read_limit, read_wanted


@kernel
def pick_rows(
    output: tl.tensor,
    live: tl.tensor,
    kept: tl.tensor,
    kept_count: tl.tensor,
    settings: tl.tensor,
    width: tl.tensor,
    candidates: tl.tensor,
    columns: tl.tensor,
    known: tl.tensor,
    limit: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    """Choose the rows of an image of an NMS-free head; the program id is the image.

    Args:
        output: float32 (images, candidates, columns), `x1 y1 x2 y2 score class extra...`.
        live: int32 (1,), images to look at.
        kept: int64 (images, limit), receives the rows' positions.
        kept_count: int32 (images,), receives how many.
        settings: int32 (images, width), what each image takes, as `Settings` writes it. Its
            most detections are counted before rows that are not finite are dropped.
        width: Columns of `settings`.
        candidates: Rows per image.
        columns: Columns of a row.
        known: Classes that `settings` has bits for; no other is wanted where only some are.
        limit: Rows per image that there is room for.
        CHUNK: Rows that are looked at at a time.
    """
    image = tl.program_id(0)
    if image >= tl.load(live):
        tl.store(kept_count + image, 0)
        return
    output += image.to(tl.int64) * candidates * columns
    kept += image.to(tl.int64) * limit
    settings += image * width
    conf = read_conf(settings)
    most = read_limit(settings)
    filtered = read_filter(settings)
    lane = tl.arange(0, CHUNK)
    passed = 0
    stay = 0
    for start in range(0, candidates, CHUNK):
        place = start + lane
        row = output + place.to(tl.int64) * columns
        inside = place < candidates
        good = tl.load(row + 4, mask=inside, other=float("-inf")) > conf
        if filtered != 0:
            label = tl.load(row + 5, mask=good, other=-1.0)
            # compared as a float: a conversion of NaN or of 1e20 could become any class
            good = good & (label > -1.0) & (label < known)
            label = tl.where(good, label, 0.0).to(tl.int32)
            good = good & read_wanted(settings, label, good)
        good = good & (passed + tl.cumsum(good.to(tl.int32), axis=0) <= most)
        passed += tl.sum(good.to(tl.int32), axis=0)
        broken = tl.zeros((CHUNK,), tl.int32)
        for column in range(0, columns):
            value = tl.load(row + column, mask=good, other=0.0)
            broken |= (tl.abs(value) < float("inf")).to(tl.int32) ^ 1
        good = good & (broken == 0)
        slot = stay + tl.cumsum(good.to(tl.int32), axis=0) - 1
        tl.store(kept + slot, place.to(tl.int64), mask=good)
        stay += tl.sum(good.to(tl.int32), axis=0)
    tl.store(kept_count + image, stay)


@kernel
def write_rows(
    output: tl.tensor,
    found: tl.tensor,
    kept: tl.tensor,
    kept_count: tl.tensor,
    rows: tl.tensor,
    counts: tl.tensor,
    truncated: tl.tensor,
    limit: tl.tensor,
    most: tl.tensor,
    width: tl.tensor,
    first_extra: tl.tensor,
    image_stride: tl.tensor,
    candidate_stride: tl.tensor,
    column_stride: tl.tensor,
    KEYS: tl.constexpr,
    CORNERS: tl.constexpr,
    LABEL_BITS: tl.constexpr,
    IMAGES: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Write the rows of an image behind those of the images before it; the program id is the image.

    `rows`, `counts` and `truncated` may be pinned host memory: values go in the order of their
    addresses, and whoever waits for the stream sees them.

    Args:
        output: float32, element (image, candidate, column) at the three strides.
        found: int32 (images,), candidates that NMS had; read with KEYS only.
        kept: int64 (images, limit), keys (with KEYS) or positions of the rows to write.
        kept_count: int32 (images,), how many.
        rows: float32 (images * limit, width), receives `x1 y1 x2 y2 score class extra...`
            (boxes as they are without CORNERS) of all images, without gaps.
        counts: int32 (images,), receives `kept_count`.
        truncated: int32 (images,), receives whether `found` is above `most`.
        limit: Rows per image at most.
        most: Candidates that NMS looks at.
        width: Columns of `rows`.
        first_extra: Column of `output` that becomes column 6 of `rows`.
        image_stride: Of `output`, in elements.
        candidate_stride: Of `output`, in elements.
        column_stride: Of `output`, in elements.
        KEYS: `kept` has keys: score and class come from them, boxes are cx cy w h.
        CORNERS: Turn boxes into corners.
        LABEL_BITS: Bits of a key for the class.
        IMAGES: Power of two, at least the images.
        CHUNK: Values that are written at a time.
    """
    image = tl.program_id(0)
    count = tl.load(kept_count + image)
    lane = tl.arange(0, IMAGES)
    before = tl.sum(tl.load(kept_count + lane, mask=lane < image, other=0), axis=0)
    tl.store(counts + image, count)
    if KEYS:
        tl.store(truncated + image, (tl.load(found + image) > most).to(tl.int32))
    output += image.to(tl.int64) * image_stride
    kept += image.to(tl.int64) * limit
    rows += before.to(tl.int64) * width
    lane = tl.arange(0, CHUNK)
    for start in range(0, count * width, CHUNK):
        at = start + lane
        mask = at < count * width
        row = at // width
        column = at - row * width
        key = tl.load(kept + row, mask=mask, other=0)
        if KEYS:
            anchor = key_anchor(key, LABEL_BITS)
            source = output + anchor.to(tl.int64) * candidate_stride
            stored = mask & ((column < 4) | (column >= 6))
            origin = tl.where(column < 4, column, column + (first_extra - 6))
            if CORNERS:
                is_box = stored & (column < 4)
                origin = tl.where(is_box, column & 1, origin)
                size = source + (2 + origin) * column_stride
                half = tl.load(size, mask=is_box, other=0.0) * 0.5
                value = tl.load(source + origin * column_stride, mask=stored, other=0.0)
                value += tl.where(column < 2, -half, half)
            else:
                value = tl.load(source + origin * column_stride, mask=stored, other=0.0)
            value = tl.where(column == 4, key_score(key), value)
            label = key_label(key, LABEL_BITS).to(tl.float32)
            value = tl.where(column == 5, label, value)
        else:
            source = output + key * candidate_stride
            value = tl.load(source + column * column_stride, mask=mask, other=0.0)
        tl.store(rows + at, value, mask=mask)
