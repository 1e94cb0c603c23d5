"""Journal to a CSV file: a row a detection, for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from brimful.detections import Detections
from brimful.formats.polygon import obb_corners
from brimful.sinks.atomic import whole_file
from brimful.sinks.rows import Rows

_BEFORE = ("image", "index", "frame", "pts_ms", "class_id", "class_name", "confidence")
_BOX = ("x1", "y1", "x2", "y2")
_EXTRA = {"segment": ("segmentation",), "pose": ("keypoints",), "obb": ("obb", "polygon")}


def write_csv(rows: Rows, output: Path) -> None:
    """Write a line a detection, after RFC 4180, in UTF-8, below a line of column names.

    Columns: image, index, frame, pts_ms, class_id, class_name, confidence, x1, y1, x2, y2, error,
    and by task segmentation, keypoints, obb and polygon, each as JSON. Of classify it is one line
    an image, its best class, without a box. An image that failed has a line with its `error` and no
    class; one in which nothing was found has none.
    """
    box = () if rows.task == "classify" else _BOX
    columns = (*_BEFORE, *box, "error", *_EXTRA.get(rows.task, ()))
    with whole_file(output) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        table = csv.DictWriter(text, columns, lineterminator="\r\n")
        table.writeheader()
        for d in rows:
            table.writerows(_lines(d))
        text.detach()  # the file is closed by whoever opened it


def _lines(d: Detections) -> Iterator[dict[str, Any]]:
    where = {"image": d.image, "index": d.index, "frame": d.frame, "pts_ms": d.pts_ms}
    if d.error is not None:
        yield where | {"error": d.error}
    elif d.probs is not None:
        best = int(d.probs.argmax())
        yield where | _class(d, best, float(d.probs[best]))
    corners = None if d.obb is None else obb_corners(d.obb).reshape(-1, 8)
    for i in range(len(d)):
        line = where | _class(d, int(d.class_id[i]), float(d.confidence[i]))
        line |= dict(zip(_BOX, (round(side, 4) for side in d.boxes[i].tolist()), strict=True))
        if d.masks is not None:
            line["segmentation"] = _json(d.masks[i])
        if d.keypoints is not None:
            line["keypoints"] = _json(d.keypoints[i].ravel().tolist())
        if d.obb is not None and corners is not None:
            line |= {"obb": _json(d.obb[i].tolist()), "polygon": _json(corners[i].tolist())}
        yield line


def _class(d: Detections, class_id: int, confidence: float) -> dict[str, Any]:
    return {
        "class_id": class_id,
        "class_name": d.names[class_id],
        "confidence": round(confidence, 6),
    }


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
