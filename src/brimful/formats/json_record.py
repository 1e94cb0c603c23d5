"""The JSON of an image, and the way back from it.

One object an image or frame: `image`, `index`, `frame`, `pts_ms`, `width`, `height`, `canvas`,
then `detections` (of classify: `top1` and `probs`), then `error`. `truncated` is there when it is
true, `failure` (see `FailureKind`) where there is an error.
`top1` is the most probable class (`class_id`, `class_name`, `confidence`), null without one.
A detection has `bbox` (x1 y1 x2 y2 in pixels of the original image), `confidence`, `class_id`,
`class_name`, and by task `segmentation` (COCO RLE), `keypoints` (`[[x, y, visibility], ...]`),
or `obb` (cx cy w h angle) with its `polygon` (four corners). Floats are float32 in their
shortest form that reads back to the same float32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from brimful.detections import Detections
from brimful.formats.polygon import obb_corners
from brimful.spec import Task

Record = dict[str, Any]
"""The JSON object of an image."""


def encode_jsonl(batch: Sequence[Detections]) -> bytes:
    """Return the JSON lines of a batch, each with its newline, in one piece.

    The arrays of all images of a model are written at once and cut into rows, so that an image
    costs a few pieces of text and no objects.
    """
    lines: list[bytes] = []
    for _, run in groupby(batch, _layout):
        detections = list(run)
        rows = _rows([d for d in detections if len(d.confidence)])
        at = 0
        for d in detections:
            end = at + len(d.confidence)
            lines.append(_line(d, rows[at:end]))
            at = end
    return b"".join(lines)


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
        failure=record.get("failure"),  # rows of earlier versions have none
    )


def plain(detections: Detections) -> Record:
    """Return the JSON object of an image made of lists, numbers and strings only."""
    record: Record = orjson.loads(encode_jsonl([detections]))
    return record


def _line(d: Detections, rows: Sequence[bytes]) -> bytes:
    """Return the line of an image, given the objects of its detections."""
    head = orjson.dumps(
        {
            "image": d.image,
            "index": d.index,
            "frame": d.frame,
            "pts_ms": d.pts_ms,
            "width": d.width,
            "height": d.height,
            "canvas": d.canvas,
        }
    )
    if d.task == "classify":
        found = b'"top1":%b,"probs":%b' % (
            orjson.dumps(_top1(d), option=orjson.OPT_SERIALIZE_NUMPY),
            orjson.dumps(d.probs, option=orjson.OPT_SERIALIZE_NUMPY),
        )
    else:
        found = b'"detections":[%b]' % b",".join(rows)
    truncated = b',"truncated":true' if d.truncated else b""
    return b'%b,%b%b,"error":%b}\n' % (head[:-1], found, truncated, error_members(d))


def error_members(d: Detections) -> bytes:
    """Return the value of `error` and, where there is one, the member `failure` behind it."""
    if d.error is None:
        return b"null"
    return b'%b,"failure":%b' % (orjson.dumps(d.error), orjson.dumps(d.failure))


def _top1(d: Detections) -> Record | None:
    """Return the most probable class of an image, the first of equal ones."""
    if d.probs is None or not len(d.probs) or np.isnan(d.probs).any():
        return None
    best = int(d.probs.argmax())
    return {"class_id": best, "class_name": d.names[best], "confidence": d.probs[best]}


def _layout(d: Detections) -> tuple[Any, ...]:
    """Return what the detections of images must have in common to be written at once."""
    return d.names, d.masks is None, d.keypoints is None, d.obb is None


def _rows(batch: Sequence[Detections]) -> list[bytes]:
    """Return the objects of all detections of a batch of one layout, image after image."""
    if not batch:
        return []
    first = batch[0]
    class_texts = _class_texts(first.names)
    ids = np.concatenate([d.class_id for d in batch]).tolist()
    columns = [
        (b'{"bbox":[%b]', _texts([d.boxes for d in batch])),
        (b',"confidence":%b', _texts([d.confidence for d in batch])),
        (b"%b", [class_texts[id] for id in ids]),
    ]
    if first.masks is not None:
        masks = [orjson.dumps(mask) for d in batch for mask in d.masks or ()]
        columns.append((b',"segmentation":%b', masks))
    if first.keypoints is not None:
        columns.append((b',"keypoints":[[%b]]', _texts([d.keypoints for d in batch])))
    if first.obb is not None:
        columns.append((b',"obb":[%b]', _texts([d.obb for d in batch])))
        columns.append(
            (b',"polygon":[[%b]]', _texts([obb_corners(d.obb) for d in batch if d.obb is not None]))
        )
    row = b"".join([text for text, _ in columns]) + b"}"
    return list(map(row.__mod__, zip(*[values for _, values in columns], strict=True)))


def _texts(arrays: Sequence[Any]) -> list[bytes]:
    """Return the numbers of each row of some arrays, joined, as text without the outer brackets.

    It is numpy's float32 that keeps them short: 0.92 and not 0.9200000166893005.
    """
    values = np.concatenate(arrays).astype(np.float32, copy=False)
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)
    depth = values.ndim
    return text[depth:-depth].split(b"]" * (depth - 1) + b"," + b"[" * (depth - 1))


class _ClassTexts(dict[int, bytes]):
    """The class id and name of a detection as JSON members, made once for each class."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self._names = names

    def __missing__(self, id: int) -> bytes:
        text = b',"class_id":%d,"class_name":%b' % (id, orjson.dumps(self._names[id]))
        self[id] = text
        return text


@lru_cache(maxsize=8)
def _class_texts(names: tuple[str, ...]) -> _ClassTexts:
    return _ClassTexts(names)


def _has(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return bool(rows) and name in rows[0]


def _floats(values: Any) -> NDArray[np.float32]:
    return np.array(values, np.float32)  # a JSON null becomes NaN, as NaN became null
