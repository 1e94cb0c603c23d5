"""Journal to two Parquet tables: one row a detection, one row an image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from brimful.extras import require
from brimful.formats.polygon import obb_corners
from brimful.sinks.atomic import whole_file
from brimful.sinks.rows import Rows

_IMAGES_AT_ONCE = 4096


def write_parquet(rows: Rows, output: Path, images: Path) -> None:
    """Write the detections, and beside them the images; `image` and `frame` join the two.

    Detections: image, index, frame, pts_ms, class_id, class_name, confidence, x1, y1, x2, y2, and
    by task segmentation {height, width, counts}, keypoints (flat), obb and polygon. Of classify
    it is one row an image, its best class. Images: image, index, frame, pts_ms, width, height,
    canvas_height, canvas_width, detections (how many), truncated, error, and of classify probs.
    """
    pq = require("pyarrow.parquet", feature="Parquet output", extra="parquet")
    pa = require("pyarrow", feature="Parquet output", extra="parquet")
    of_detections, of_images = _schemas(pa, rows.task)
    with (
        whole_file(images) as images_file,
        whole_file(output) as detections_file,
        pq.ParquetWriter(images_file, of_images) as images_table,
        pq.ParquetWriter(detections_file, of_detections) as detections_table,
    ):
        iterator = iter(rows)
        while block := list(islice(iterator, _IMAGES_AT_ONCE)):
            images_table.write_table(
                pa.Table.from_pylist([_image(d) for d in block], schema=of_images)
            )
            found = [row for d in block for row in _detections(d)]
            if found:
                detections_table.write_table(pa.Table.from_pylist(found, schema=of_detections))


def _schemas(pa: Any, task: str) -> tuple[Any, Any]:
    where = [
        ("image", pa.string()),
        ("index", pa.int64()),
        ("frame", pa.int64()),
        ("pts_ms", pa.float64()),
    ]
    detections = [
        *where,
        ("class_id", pa.int32()),
        ("class_name", pa.string()),
        ("confidence", pa.float32()),
    ]
    images = [
        *where,
        *((name, pa.int32()) for name in ("width", "height", "canvas_height", "canvas_width")),
        ("detections", pa.int32()),
        ("truncated", pa.bool_()),
        ("error", pa.string()),
        ("failure", pa.string()),
    ]
    floats = pa.list_(pa.float32())
    if task == "classify":
        images.append(("probs", floats))
    else:
        detections += [(side, pa.float32()) for side in ("x1", "y1", "x2", "y2")]
    if task == "segment":
        mask = [("height", pa.int32()), ("width", pa.int32()), ("counts", pa.string())]
        detections.append(("segmentation", pa.struct(mask)))
    elif task == "pose":
        detections.append(("keypoints", floats))
    elif task == "obb":
        detections += [("obb", floats), ("polygon", floats)]
    return pa.schema(detections), pa.schema(images)


def _where(d: Any) -> dict[str, Any]:
    return {"image": d.image, "index": d.index, "frame": d.frame, "pts_ms": d.pts_ms}


def _image(d: Any) -> dict[str, Any]:
    canvas = d.canvas or (None, None)
    return _where(d) | {
        "width": d.width,
        "height": d.height,
        "canvas_height": canvas[0],
        "canvas_width": canvas[1],
        "detections": len(d) if d.probs is None else None,
        "truncated": d.truncated,
        "error": d.error,
        "failure": d.failure,
        "probs": d.probs,
    }


def _detections(d: Any) -> Iterator[dict[str, Any]]:
    where = _where(d)
    if d.probs is not None:
        best = int(d.probs.argmax())
        yield where | {
            "class_id": best,
            "class_name": d.names[best],
            "confidence": float(d.probs[best]),
        }
        return
    corners = None if d.obb is None else obb_corners(d.obb).reshape(-1, 8)
    for i in range(len(d)):
        x1, y1, x2, y2 = d.boxes[i].tolist()
        row = where | {
            "class_id": int(d.class_id[i]),
            "class_name": d.names[d.class_id[i]],
            "confidence": float(d.confidence[i]),
            **{"x1": x1, "y1": y1, "x2": x2, "y2": y2},
        }
        if d.masks is not None:
            height, width = d.masks[i]["size"]
            row["segmentation"] = {
                "height": height,
                "width": width,
                "counts": d.masks[i]["counts"],
            }
        if d.keypoints is not None:
            row["keypoints"] = d.keypoints[i].ravel()
        if d.obb is not None and corners is not None:
            row |= {"obb": d.obb[i], "polygon": corners[i]}
        yield row
