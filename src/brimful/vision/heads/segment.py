"""Segment: boxes and instance masks on the original image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from brimful.detections import Detections, FloatArray
from brimful.errors import ModelError
from brimful.spec import ModelSpec
from brimful.vision.heads.encoded_masks import EncodedMasks
from brimful.vision.heads.placed import Placed
from brimful.vision.heads.rows import Inverse, Rows
from brimful.vision.masks import instance_masks


def segment(
    rows: Rows, arrays: Sequence[FloatArray], placed: Sequence[Placed], spec: ModelSpec
) -> list[Detections]:
    """Return the boxes and masks of each image; a detection without a mask pixel is dropped."""
    if not arrays or arrays[0].ndim != 4 or arrays[0].shape[1] != rows.extra.shape[1]:
        got = ", ".join(str(array.shape) for array in arrays) or "none"
        raise ModelError(
            f"a segment model's second output has prototypes (batch, {rows.extra.shape[1]}, "
            f"height, width), got {got}"
        )
    boxes = Inverse.of(rows, placed).boxes(rows.boxes)
    masks: list[dict[str, Any] | None] = []
    for prototypes, p, span in zip(arrays[0], placed, rows.spans(), strict=False):
        if span.stop > span.start:
            masks += instance_masks(prototypes, rows.extra[span], boxes[span], p.geometry)
    return _with_masks(rows, boxes, masks, placed, spec)


def segment_encoded(
    rows: Rows, encoded: EncodedMasks, placed: Sequence[Placed], spec: ModelSpec
) -> list[Detections]:
    """Do the same with masks that the device encoded."""
    if spec.task != "segment" or len(encoded.lengths) != len(rows.confidence):
        raise ModelError(
            f"expected a mask for each of {len(rows.confidence)} rows of a segment model, got "
            f"{len(encoded.lengths)} for a {spec.task} model"
        )
    boxes = Inverse.of(rows, placed).boxes(rows.boxes)
    return _with_masks(rows, boxes, encoded.masks(rows, boxes, placed), placed, spec)


def _with_masks(
    rows: Rows,
    boxes: FloatArray,
    masks: list[dict[str, Any] | None],
    placed: Sequence[Placed],
    spec: ModelSpec,
) -> list[Detections]:
    """Return the detections that have a mask."""
    keep = np.array([mask is not None for mask in masks], np.bool_)
    return rows.where(keep).detections(
        placed, spec, boxes[keep], masks=[mask for mask in masks if mask is not None]
    )
