"""Instance masks: prototypes to COCO RLE at the resolution of the original image.

A mask is a weighted sum of the prototypes, bilinearly resized to the original image without the
padding, cut at zero and cropped to its box. Bilinear resizing is linear and separable, so the
mask inside its box is `rows @ sum @ columns.T` with two small weight matrices, and nothing
outside the box is ever computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.detections import FloatArray
from brimful.spec import Size
from brimful.vision.geometry import Geometry

CHUNK_BYTES = 32 << 20
"""Most memory for the mask logits of one image at a time, in bytes."""


@dataclass(frozen=True, slots=True)
class Axis:
    """How an axis of the prototypes becomes that axis of the image: enlarged, cut, resized.

    Attributes:
        factor: By which the prototypes are enlarged first.
        start: First pixel of the enlarged prototypes that belongs to the image.
        count: How many do.
        target: Pixels of the image, to which these are resized.
    """

    factor: int
    start: int
    count: int
    target: int


def axes(geometry: Geometry, grid: Size) -> tuple[Axis, Axis]:
    """Return the way from prototypes of size `grid` to the image, (vertical, horizontal).

    The image's part of the prototypes may start between two of them. They are enlarged first by
    the smallest factor that makes it start on a pixel, as the reference does.
    """
    ratio = max(1, geometry.canvas[0] // grid[0])
    factor = 1
    for whole, side in zip(geometry.canvas, geometry.resized, strict=True):
        padding = whole - side
        factor = max(factor, ratio // math.gcd(ratio, padding, padding // 2))
    found = []
    for axis, padding in enumerate((geometry.top, geometry.left)):
        start = padding * factor // ratio
        stop = start + geometry.resized[axis] * factor // ratio
        count = min(stop, factor * grid[axis]) - start
        found.append(Axis(factor, start, count, geometry.image[axis]))
    return found[0], found[1]


def instance_masks(
    prototypes: FloatArray, coefficients: FloatArray, boxes: FloatArray, geometry: Geometry
) -> list[dict[str, Any] | None]:
    """Compute the masks of one image.

    Args:
        prototypes: float32 (m, mh, mw), the model's second output for the image.
        coefficients: float32 (n, m), one row per detection.
        boxes: float32 (n, 4), `x1 y1 x2 y2` in pixels of the original image, clipped to it.
        geometry: Where the image lies on its canvas.

    Returns:
        COCO RLE of each detection, None where no pixel of the box is set.
    """
    rows, columns = _weights(geometry, prototypes.shape[1:])
    flat = prototypes.reshape(len(prototypes), -1)
    # a pixel belongs to the box when its index does: x1 <= x < x2
    corners = np.ceil(boxes).astype(np.intp)
    # one row of tall logits may need more than the cap, which bounds it by the box alone
    chunk = max(1, CHUNK_BYTES // (flat.shape[1] * flat.itemsize))
    masks: list[dict[str, Any] | None] = []
    for start in range(0, len(boxes), chunk):
        logits = coefficients[start : start + chunk] @ flat
        logits = logits.reshape(-1, *prototypes.shape[1:])
        for logit, (x1, y1, x2, y2) in zip(
            logits, corners[start : start + chunk].tolist(), strict=True
        ):
            masks.append(_mask(logit, rows, columns, (x1, y1, x2, y2), geometry.image))
    return masks


def encode_rle(inside: NDArray[np.bool_], left: int, top: int, size: Size) -> dict[str, Any]:
    """Encode the part of a mask inside its box as COCO RLE (compressed, as pycocotools has it).

    Args:
        inside: bool (box width, box height), the mask transposed: RLE goes down the columns.
        left: First column of the box in the image.
        top: First row of the box in the image.
        size: (height, width) of the image.
    """
    height, width = size
    # the columns one after the other, a zero after each and before the first
    step = inside.shape[1] + 1
    flat = np.zeros(inside.shape[0] * step + 1, np.bool_)
    flat[1:].reshape(-1, step)[:, :-1] = inside
    column, row = np.divmod(np.flatnonzero(flat[1:] != flat[:-1]), step)
    changes = (column + left) * height + row + top  # starts and ends of runs in turn
    # a run that fills a column to its end goes on where the next column starts
    joined = np.flatnonzero(changes[1:-1:2] == changes[2::2])
    changes = np.delete(changes, np.concatenate((2 * joined + 1, 2 * joined + 2)))
    counts = np.diff(changes, prepend=0)
    if not len(changes) or changes[-1] < height * width:
        last = int(changes[-1]) if len(changes) else 0
        counts = np.append(counts, height * width - last)
    return {"size": [height, width], "counts": _compress(counts)}


def _mask(
    logit: FloatArray,
    rows: FloatArray,
    columns: FloatArray,
    corners: tuple[int, int, int, int],
    size: Size,
) -> dict[str, Any] | None:
    """Resize one mask's logits (mh, mw) inside its box and encode what is above zero."""
    left, top, right, bottom = corners
    if right <= left or bottom <= top:
        return None
    row_weights, column_weights = rows[top:bottom], columns[left:right]
    first_row, last_row = _support(row_weights)
    first_column, last_column = _support(column_weights)
    window = logit[first_row:last_row, first_column:last_column]
    across = column_weights[:, first_column:last_column] @ window.T
    inside = across @ row_weights[:, first_row:last_row].T > 0
    return encode_rle(inside, left, top, size) if inside.any() else None


def _support(weights: FloatArray) -> tuple[int, int]:
    """Return the range of prototype pixels that a range of image pixels draws from."""
    first = int(np.flatnonzero(weights[0])[0])
    last = int(np.flatnonzero(weights[-1])[-1])
    return first, last + 1


@lru_cache(maxsize=16)
def _weights(geometry: Geometry, grid: Size) -> tuple[FloatArray, FloatArray]:
    """Return weights (image height, mh) and (image width, mw) from prototype to image pixels."""
    tables = []
    for axis, side in zip(axes(geometry, grid), grid, strict=True):
        enlarged = _bilinear(side, axis.factor * side)[axis.start : axis.start + axis.count]
        tables.append(_interpolate(enlarged, axis.target))
    return tables[0], tables[1]


def _bilinear(source: int, target: int) -> FloatArray:
    """Return the weights (target, source) of a bilinear resize, pixel centres at one half."""
    return _interpolate(np.eye(source, dtype=np.float32), target)


def _interpolate(table: FloatArray, target: int) -> FloatArray:
    """Resize the rows of a table (n, m) bilinearly to (target, m)."""
    source = len(table)
    if source == target:
        return table
    place = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    low = place.astype(np.intp)
    high = np.minimum(low + 1, source - 1)
    weight = (place - low).astype(np.float32)[:, None]
    resized: FloatArray = table[low] * (1 - weight) + table[high] * weight
    return resized


def _compress(counts: NDArray[np.int64]) -> str:
    """Write run lengths the way COCO does.

    From the third on (in the second pair), a count is the difference to the one two before. Each
    is a sequence of 6-bit characters from `0` on, the lowest five bits first, the sixth set when
    more follow, and the sign taken from the last one's fifth bit.
    """
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    characters: list[NDArray[np.int64]] = []
    going = np.ones(len(values), np.bool_)
    present: list[NDArray[np.bool_]] = []
    while going.any():
        present.append(going)
        five = values & 31
        values = values >> 5
        more = going & np.where(five & 16, values != -1, values != 0)
        characters.append(five + 32 * more + 48)
        going = more
    text = np.stack(characters, axis=1).astype(np.uint8)[np.stack(present, axis=1)]
    return text.tobytes().decode("ascii")
