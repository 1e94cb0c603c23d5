"""The JSON of an image, and the way back from it.

One object an image or frame: `image`, `index`, `frame`, `pts_ms`, `width`, `height`, `canvas`,
then `detections` (of classify: `probs`), then `error`. `truncated` is there when it is true.
A detection has `bbox` (x1 y1 x2 y2 in pixels of the original image), `confidence`, `class_id`,
`class_name`, and by task `segmentation` (COCO RLE), `keypoints` (`[[x, y, visibility], ...]`),
or `obb` (cx cy w h angle) with its `polygon` (four corners). Floats are float32 in their
shortest form that reads back to the same float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from brimful.detections import Detections
from brimful.formats.polygon import obb_corners
from brimful.spec import Task

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE

Record = dict[str, Any]
"""The JSON object of an image. As `to_record` returns it, it holds numpy arrays."""


def to_record(detections: Detections) -> Record:
    """Return the JSON object of an image, for `orjson.dumps` with OPT_SERIALIZE_NUMPY."""
    d = detections
    record: Record = {
        "image": d.image,
        "index": d.index,
        "frame": d.frame,
        "pts_ms": d.pts_ms,
        "width": d.width,
        "height": d.height,
        "canvas": d.canvas,
    }
    if d.task == "classify":
        record["probs"] = d.probs
    else:
        record["detections"] = _rows(d) if len(d.confidence) else []
    if d.truncated:
        record["truncated"] = True
    record["error"] = d.error
    return record


def encode_jsonl(batch: Sequence[Detections]) -> bytes:
    """Return the JSON lines of a batch, each with its newline, in one piece."""
    return b"".join([orjson.dumps(to_record(d), option=_OPTIONS) for d in batch])


def from_record(record: Mapping[str, Any], *, task: Task, names: tuple[str, ...]) -> Detections:
    """Return the Detections that a record was made of, equal to the last bit.

    Of an image without detections the optional arrays (masks, keypoints, obb) come back as None.

    Args:
        record: A parsed JSON object.
        task: What the model predicted; a record does not say.
        names: The class names of the model.

    Raises:
        KeyError: A field is missing.
    """
    rows = record.get("detections") or []
    canvas = record["canvas"]
    probs = record.get("probs")
    return Detections(
        image=record["image"],
        index=record["index"],
        frame=record["frame"],
        pts_ms=record["pts_ms"],
        width=record["width"],
        height=record["height"],
        canvas=None if canvas is None else (canvas[0], canvas[1]),
        task=task,
        names=names,
        boxes=_floats([row["bbox"] for row in rows]).reshape(-1, 4),
        confidence=_floats([row["confidence"] for row in rows]),
        class_id=np.array([row["class_id"] for row in rows], np.int32),
        masks=tuple(row["segmentation"] for row in rows) if _has(rows, "segmentation") else None,
        keypoints=_floats([row["keypoints"] for row in rows]) if _has(rows, "keypoints") else None,
        obb=_floats([row["obb"] for row in rows]) if _has(rows, "obb") else None,
        probs=None if probs is None else _floats(probs),
        truncated=record.get("truncated", False),
        error=record["error"],
    )


def plain(detections: Detections) -> Record:
    """Return the JSON object of an image made of lists, numbers and strings only."""
    record: Record = orjson.loads(
        orjson.dumps(to_record(detections), option=orjson.OPT_SERIALIZE_NUMPY)
    )
    return record


def _rows(d: Detections) -> list[dict[str, Any]]:
    names = d.names
    boxes = np.ascontiguousarray(d.boxes, np.float32)
    # numpy scalars are what keeps float32 short: 0.92 and not 0.9200000166893005.
    rows = [
        {"bbox": box, "confidence": score, "class_id": class_id, "class_name": names[class_id]}
        for box, score, class_id in zip(
            boxes, np.asarray(d.confidence, np.float32), d.class_id.tolist(), strict=True
        )
    ]
    if d.masks is not None:
        _add(rows, "segmentation", d.masks)
    if d.keypoints is not None:
        _add(rows, "keypoints", np.ascontiguousarray(d.keypoints, np.float32))
    if d.obb is not None:
        _add(rows, "obb", np.ascontiguousarray(d.obb, np.float32))
        _add(rows, "polygon", obb_corners(d.obb))
    return rows


def _add(rows: list[dict[str, Any]], name: str, values: Sequence[Any] | NDArray[Any]) -> None:
    for row, value in zip(rows, values, strict=True):
        row[name] = value


def _has(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return bool(rows) and name in rows[0]


def _floats(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)  # a JSON null becomes NaN, as NaN became null
