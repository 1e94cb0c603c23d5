"""Non-maximum suppression on the host, for axis-aligned and for rotated boxes.

Both work in blocks of descending score and stop when enough boxes are kept, so their cost does
not grow with the square of the candidates, and no clock ever cuts a result short.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from brimful.detections import FloatArray, IntArray

Indices = NDArray[np.intp]

BLOCK = 256
"""Boxes that are compared with the kept ones at a time."""
CHUNK = 4096
"""Earlier boxes that a block is compared with at a time; bounds memory to a few MiB."""
EPSILON = np.float32(1e-7)
"""Keeps divisions, logarithms and roots of probiou finite, as the reference has it."""


def nms(
    boxes: FloatArray,
    scores: FloatArray,
    iou: float,
    *,
    classes: IntArray | None = None,
    limit: int | None = None,
) -> Indices:
    """Greedy non-maximum suppression, with the semantics of `torchvision.ops.nms`.

    A box is dropped when a kept box of its class, with a higher score or the same score and a
    lower index, overlaps it by more than `iou`.

    Args:
        boxes: float32 (n, 4), `x1 y1 x2 y2`. Boxes with NaN neither suppress nor are suppressed.
        scores: float32 (n,).
        iou: Largest overlap (intersection over union) of two boxes that both stay.
        classes: int32 (n,); boxes of different classes do not see each other. None: one class.
        limit: Stop after this many boxes; the rest of the result would not change them.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    classes = None if classes is None else classes[order]
    limit = len(order) if limit is None else min(limit, len(order))
    threshold = _float32_at_most(iou)
    kept: Indices = np.empty(0, np.intp)
    with np.errstate(all="ignore"):  # infinite and NaN boxes are answered, not warned about
        for start in range(0, len(order), BLOCK):
            if len(kept) >= limit:
                break
            block = np.arange(start, min(start + BLOCK, len(order)))
            for first in range(0, len(kept), CHUNK):
                earlier = kept[first : first + CHUNK]
                hit = _overlaps(boxes, classes, earlier, block, threshold).any(axis=0)
                block = block[~hit]
            alive = np.ones(len(block), np.bool_)
            hits = np.triu(_overlaps(boxes, classes, block, block, threshold), 1)
            for row in np.flatnonzero(hits.any(axis=1)):
                if alive[row]:
                    alive[hits[row]] = False
            kept = np.concatenate((kept, block[alive]))
    return order[kept[:limit]]


def rotated_nms(
    boxes: FloatArray,
    scores: FloatArray,
    iou: float,
    *,
    classes: IntArray | None = None,
    limit: int | None = None,
) -> Indices:
    """Non-maximum suppression of rotated boxes, as YOLO's oriented heads are evaluated with.

    It is the parallel form, "Fast NMS" of YOLACT (arXiv 1904.02689): a box is dropped when any
    box of its class with a higher score overlaps it by more than `iou`, be that one kept or not.
    The overlap is `probiou`.

    Args:
        boxes: float32 (n, 5), `cx cy w h angle` with the angle in radians.
        scores: float32 (n,).
        iou: Largest overlap (probiou) of two boxes that both stay.
        classes: int32 (n,); boxes of different classes do not see each other. None: one class.
        limit: Stop after this many boxes; the rest of the result would not change them.

    Returns:
        Indices of the kept boxes, best first.
    """
    order = np.argsort(-scores, kind="stable")
    boxes = boxes[order]
    classes = None if classes is None else classes[order]
    limit = len(order) if limit is None else min(limit, len(order))
    reach = _reach(boxes, iou)
    kept: list[Indices] = []
    found = 0
    with np.errstate(all="ignore"):
        for start in range(0, len(order), BLOCK):
            if found >= limit:
                break
            stop = min(start + BLOCK, len(order))
            alive = np.ones(stop - start, np.bool_)
            for first in range(0, stop, CHUNK):
                last = min(first + CHUNK, stop)
                near = _near(boxes, reach, classes, slice(first, last), slice(start, stop))
                better, worse = np.nonzero(near)
                better, worse = better + first, worse + start
                ordered = better < worse
                better, worse = better[ordered], worse[ordered]
                hit = probiou(boxes[better], boxes[worse]) > iou
                alive[worse[hit] - start] = False
            kept.append(np.flatnonzero(alive) + start)
            found += len(kept[-1])
    return order[np.concatenate(kept)[:limit]] if kept else order[:0]


def probiou(left: FloatArray, right: FloatArray) -> FloatArray:
    """Similarity of rotated boxes as Gaussians: 1 - Hellinger distance.

    From "Gaussian Bounding Boxes and Probabilistic Intersection-over-Union", arXiv 2106.06072:
    a box is the Gaussian with the mean and covariance of a uniform distribution over it, and
    the Hellinger distance comes from the Bhattacharyya distance of two of them.

    Args:
        left: float32 (..., 5), `cx cy w h angle` with the angle in radians.
        right: The same, broadcast against `left`.

    Returns:
        float32 (...), 0 (apart) to 1 (the same).
    """
    xx1, yy1, xy1 = _covariance(left)
    xx2, yy2, xy2 = _covariance(right)
    xx, yy, xy = xx1 + xx2, yy1 + yy2, xy1 + xy2
    dx = left[..., 0] - right[..., 0]
    dy = left[..., 1] - right[..., 1]
    determinant = xx * yy - xy * xy
    distance = (xx * dy * dy + yy * dx * dx - 2 * xy * dx * dy) / (determinant + EPSILON) / 4
    own = np.maximum(xx1 * yy1 - xy1 * xy1, 0) * np.maximum(xx2 * yy2 - xy2 * xy2, 0)
    spread = np.log(determinant / (4 * np.sqrt(own) + EPSILON) + EPSILON) / 2
    bhattacharyya = np.clip(distance + spread, EPSILON, 100)
    similarity: FloatArray = 1 - np.sqrt(1 - np.exp(-bhattacharyya) + EPSILON)
    return similarity


def _overlaps(
    boxes: FloatArray,
    classes: IntArray | None,
    rows: Indices,
    columns: Indices,
    threshold: np.float32,
) -> NDArray[np.bool_]:
    """Tell for each of (rows, columns) whether the two boxes overlap by more than `threshold`."""
    x1, y1, x2, y2 = boxes[rows].T[..., None]
    u1, v1, u2, v2 = boxes[columns].T[:, None]
    width = np.minimum(x2, u2)
    width -= np.maximum(x1, u1)
    np.maximum(width, 0, out=width)
    height = np.minimum(y2, v2)
    height -= np.maximum(y1, v1)
    np.maximum(height, 0, out=height)
    shared = width
    shared *= height
    union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)
    union -= shared
    shared /= union
    hits: NDArray[np.bool_] = shared > threshold
    if classes is not None:
        hits &= classes[rows][:, None] == classes[columns]
    return hits


def _covariance(boxes: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return var(x), var(y) and cov(x, y) of rotated boxes."""
    along = boxes[..., 2] * boxes[..., 2] / np.float32(12)
    across = boxes[..., 3] * boxes[..., 3] / np.float32(12)
    cos, sin = np.cos(boxes[..., 4]), np.sin(boxes[..., 4])
    return (
        along * cos * cos + across * sin * sin,
        along * sin * sin + across * cos * cos,
        (along - across) * cos * sin,
    )


def _reach(boxes: FloatArray, iou: float) -> FloatArray:
    """Return (n,) such that boxes further apart than sqrt(reach_i + reach_j) are below `iou`.

    Their Bhattacharyya distance is at least |d|^2 / (8 * the larger variance of the mean
    covariance), and a similarity above `iou` needs it below a bound.
    """
    coefficient = max(1 - (1 - iou) ** 2, 1e-30)
    # a hair more than exact: probiou works in float32 and adds epsilons
    bound = (-math.log(coefficient) + 1e-3) * 1.01
    side = np.maximum(np.abs(boxes[:, 2]), np.abs(boxes[:, 3]))
    reach: FloatArray = np.float32(4 * bound / 12) * side * side + np.float32(1e-3)
    return reach


def _near(
    boxes: FloatArray, reach: FloatArray, classes: IntArray | None, rows: slice, columns: slice
) -> NDArray[np.bool_]:
    """Tell for each of (rows, columns) whether the two boxes might overlap at all."""
    dx = boxes[rows, None, 0] - boxes[None, columns, 0]
    dy = boxes[rows, None, 1] - boxes[None, columns, 1]
    dx *= dx
    dy *= dy
    dx += dy
    near: NDArray[np.bool_] = dx <= reach[rows, None] + reach[None, columns]
    if classes is not None:
        near &= classes[rows, None] == classes[None, columns]
    return near


def _float32_at_most(value: float) -> np.float32:
    """Return the largest float32 that is not above `value`.

    Comparing float32 overlaps with it is the same as comparing them with the exact `value`.
    """
    near = np.float32(value)
    return near if float(near) <= value else np.nextafter(near, np.float32(-np.inf))
