"""Detections as objects of the supervision library."""

from __future__ import annotations

from typing import Any

import numpy as np

from brimful.detections import Detections
from brimful.errors import ImageError
from brimful.extras import require
from brimful.formats.polygon import obb_corners
from brimful.formats.rle import decode_rle


def to_supervision(detections: Detections) -> Any:
    """Return `supervision.Detections`, or `supervision.Classifications` of classify.

    `data` holds `class_name`, of obb `xyxyxyxy` (the corners, as supervision's oriented-box
    tools expect) and of pose `keypoints`; `mask` is a bool (n, height, width) of segment.

    Raises:
        MissingExtraError: supervision is not installed.
        ImageError: There is no result to convert, only an error.
    """
    sv = require("supervision", feature="to_supervision", extra="supervision")
    d = detections
    if d.error is not None:
        raise ImageError(f"{d.image} has no detections: {d.error}")
    if d.probs is not None:
        classes = np.arange(len(d.probs))
        return sv.Classifications(class_id=classes, confidence=d.probs.copy())
    data: dict[str, Any] = {"class_name": np.array([d.names[i] for i in d.class_id], dtype=str)}
    if d.obb is not None:
        data["xyxyxyxy"] = obb_corners(d.obb)
    if d.keypoints is not None:
        data["keypoints"] = d.keypoints.copy()
    mask = None
    if d.masks is not None:
        mask = np.zeros((len(d), d.height, d.width), bool)
        for row, rle in enumerate(d.masks):
            mask[row] = decode_rle(rle)
    return sv.Detections(
        xyxy=d.boxes.copy(),
        mask=mask,
        confidence=d.confidence.copy(),
        class_id=d.class_id.astype(int),
        data=data,
    )
