"""Detections as plain dictionaries and tables, in the layout that Ultralytics' results have."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from brimful.detections import Detections
from brimful.errors import MissingExtraError
from brimful.extras import installed
from brimful.formats.polygon import obb_corners
from brimful.formats.rle import decode_rle
from brimful.formats.yolo_txt import outline

_BEST = 5  # classes of a classifier's summary


def summary(d: Detections, *, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
    """Return a dictionary a detection; see `Detections.summary`."""
    if d.probs is not None:
        best = np.argsort(-d.probs, kind="stable")[:_BEST].tolist()
        return [_class(d, i, float(d.probs[i]), decimals) for i in best]
    width, height = (d.width, d.height) if normalize else (1, 1)
    corners = d.boxes.reshape(-1, 2, 2) if d.obb is None else obb_corners(d.obb)
    rows = []
    for i, points in enumerate(corners):
        row = _class(d, int(d.class_id[i]), float(d.confidence[i]), decimals)
        box: dict[str, float] = {}
        for number, (x, y) in enumerate(points.tolist(), 1):
            box[f"x{number}"] = round(x / width, decimals)
            box[f"y{number}"] = round(y / height, decimals)
        row["box"] = box
        if d.masks is not None:
            line = outline(decode_rle(d.masks[i]))
            row["segments"] = _points(line, width, height, decimals)
        if d.keypoints is not None:
            row["keypoints"] = _points(d.keypoints[i], width, height, decimals)
        rows.append(row)
    return rows


def to_csv(d: Detections, *, normalize: bool = False, decimals: int = 5) -> str:
    """Return a table as text; see `Detections.to_csv`."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, _columns(d), lineterminator="\n")
    table.writeheader()
    for row in _flat(d, normalize=normalize, decimals=decimals):
        table.writerow(
            {
                name: orjson.dumps(value).decode() if isinstance(value, dict) else value
                for name, value in row.items()
            }
        )
    return text.getvalue()


def to_df(d: Detections, *, normalize: bool = False, decimals: int = 5) -> Any:
    """Return a table; see `Detections.to_df`.

    Raises:
        MissingExtraError: Neither pandas nor polars is installed.
    """
    rows = _flat(d, normalize=normalize, decimals=decimals)
    columns = _columns(d)
    if installed("pandas"):
        import pandas

        return pandas.DataFrame(rows, columns=columns)
    if installed("polars"):
        import polars

        return polars.DataFrame(rows) if rows else polars.DataFrame(schema=columns)
    raise MissingExtraError("to_df", "pandas", module="pandas")


def _class(d: Detections, class_id: int, confidence: float, decimals: int) -> dict[str, Any]:
    return {
        "name": d.names[class_id],
        "class": class_id,
        "confidence": round(confidence, decimals),
    }


def _points(
    points: NDArray[np.float32], width: int, height: int, decimals: int
) -> dict[str, list[float]]:
    """Return the columns of points, `x y [visibility]`."""
    scaled = np.asarray(points, np.float64) / (width, height, 1)[: points.shape[1]]
    columns = scaled.round(decimals).T.tolist()
    return dict(zip(("x", "y", "visible"), columns, strict=False))


def _flat(d: Detections, *, normalize: bool, decimals: int) -> list[dict[str, Any]]:
    """Return the dictionaries with a column for each coordinate of the box."""
    rows = summary(d, normalize=normalize, decimals=decimals)
    return [
        {
            name: value
            for key, content in row.items()
            for name, value in (content.items() if key == "box" else [(key, content)])
        }
        for row in rows
    ]


def _columns(d: Detections) -> list[str]:
    """Return the names of the columns of a task, also where there is no row."""
    corners = {"classify": 0, "obb": 4}.get(d.task, 2)
    box = [f"{axis}{number}" for number in range(1, corners + 1) for axis in "xy"]
    extra = {"segment": ["segments"], "pose": ["keypoints"]}.get(d.task, [])
    return ["name", "class", "confidence", *box, *extra]
