"""COCO's compressed run-length encoding of masks, read without pycocotools.

The format is that of `rleToString` / `rleFrString` in the COCO API (maskApi.c): runs of zeros
and ones in column order; from the third run on, the difference to the run two before; six bits
a character, 48 added, five of them data, the lowest first, the sixth says that more follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode_rle(rle: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Return the mask of a COCO RLE.

    Args:
        rle: `{"size": [height, width], "counts": str, bytes or list of runs}`.

    Returns:
        uint8 (height, width), 0 or 1.

    Raises:
        ValueError: The runs do not make up the mask.
    """
    height, width = rle["size"]
    counts = rle["counts"]
    runs = counts if isinstance(counts, list) else _runs(counts)
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f"the runs of a mask do not make up {height}x{width} pixels")
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs(counts: str | bytes) -> list[int]:
    data = counts.encode() if isinstance(counts, str) else counts
    runs: list[int] = []
    value = shift = 0
    for character in data:
        bits = character - 48
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:  # the sign of the last five bits
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
