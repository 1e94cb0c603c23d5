"""Masks that the device encoded against those of the host, pixel by pixel where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.formats.rle import decode_rle
from brimful.vision.geometry import Geometry
from brimful.vision.heads.encoded_masks import NOT_ENCODED, EncodedMasks
from brimful.vision.heads.placed import Placed
from brimful.vision.heads.rows import Rows
from brimful.vision.masks import _weights

Masks = Sequence[dict[str, Any] | None]


def placed(geometries: Sequence[Geometry]) -> list[Placed]:
    """Return images that lie so."""
    return [Placed(f"{i}.jpg", i, None, None, g) for i, g in enumerate(geometries)]


def host_masks(rows: Rows, prototypes: Any, boxes: Any, geometries: Sequence[Geometry]) -> Masks:
    """Return the host's masks of all rows."""
    missing = np.full(len(rows.image), NOT_ENCODED, np.int32)
    none = EncodedMasks.of(missing, b"", dict(enumerate(prototypes)))
    return none.masks(rows, boxes, placed(geometries))


def assert_same_masks(
    found: Masks, wanted: Masks, rows: Rows, prototypes: Any, geometries: Sequence[Geometry]
) -> int:
    """Compare masks; a pixel may differ only where its logit is 0 but for rounding.

    The logit is computed in float64 there, and rounding is taken as 4e-6 (32 times the precision of
    float32) of the largest that the sum could be.

    Returns:
        Masks that differ in such a pixel.
    """
    different = 0
    assert len(found) == len(wanted)
    for row, (own, other) in enumerate(zip(found, wanted, strict=True)):
        if own == other:
            continue
        different += 1
        image = rows.image[row]
        geometry = geometries[image]
        coefficients = rows.extra[row].astype(np.float64)
        differs = _pixels(own, geometry) != _pixels(other, geometry)
        assert differs.any(), f"row {row}: the same pixels, but other run lengths"
        logits = np.abs(_exact(coefficients, prototypes[image], geometry)[differs])
        largest = np.abs(coefficients) @ np.abs(prototypes[image]).max(axis=(1, 2))
        assert logits.max() <= 4e-6 * largest, (
            f"row {row}: a pixel with the logit {logits.max()} differs"
        )
    return different


def _exact(coefficients: Any, prototypes: Any, geometry: Geometry) -> NDArray[np.float64]:
    """Return the logits of a whole image in float64."""
    down, across = _weights(geometry, prototypes.shape[1:])
    logit = np.tensordot(coefficients, prototypes, 1)
    exact: NDArray[np.float64] = down.astype(np.float64) @ logit @ across.astype(np.float64).T
    return exact


def _pixels(mask: dict[str, Any] | None, geometry: Geometry) -> NDArray[np.uint8]:
    return np.zeros(geometry.image, np.uint8) if mask is None else decode_rle(mask)
