"""Journal to COCO results and the list of their images."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from brimful.detections import Detections
from brimful.formats.coco import category_ids, numeric_stem, resolve_categories, to_results
from brimful.sinks.atomic import whole_file
from brimful.sinks.journal import read_rows
from brimful.sinks.rows import Rows


def write_coco(rows: Rows, output: Path, images: Path) -> None:
    """Write COCO results, and beside them which image and category an id stands for.

    The image id is the file name where that is a number (`000000000139.jpg` is 139), else the
    index of the image. Where two images would share an id so (`a/1.jpg` and `b/1.jpg`, or the
    frames of a video), all images have their index. The companion says which, and has the
    `images` and `categories` of a COCO file.
    """
    by_stem = _stems_are_unique(rows)
    identify = _by_stem if by_stem else _by_index
    ids = category_ids(rows.categories, rows.names)
    with whole_file(images) as file:
        header = {
            "image_id": "file name where numeric, else index" if by_stem else "index",
            "category_map": resolve_categories(rows.categories, rows.names),
            "categories": [
                {"id": id, "name": name} for id, name in zip(ids, rows.names, strict=True)
            ],
        }
        file.write(orjson.dumps(header)[:-1] + b',"images":')
        _write_list(file, (_image(d, identify) for d in rows))
        file.write(b"}\n")
    with whole_file(output) as file:
        _write_list(
            file,
            (
                result
                for d in rows
                for result in to_results(d, image_id=identify(d.image, d.index), categories=ids)
            ),
        )
        file.write(b"\n")


def _stems_are_unique(rows: Rows) -> bool:
    ids = array("q")
    for record in read_rows(rows.journal):
        id = _by_stem(record["image"], record["index"])
        if record["frame"] is not None or id >= 1 << 53:  # readers of JSON may hold doubles
            return False
        ids.append(id)
    values = np.frombuffer(ids, np.int64) if ids else np.empty(0, np.int64)
    return len(np.unique(values)) == len(values)


def _by_stem(key: str, index: int) -> int:
    stem = numeric_stem(key)
    return index if stem is None else stem


def _by_index(key: str, index: int) -> int:
    return index


def _image(d: Detections, identify: Callable[[str, int], int]) -> dict[str, Any]:
    image: dict[str, Any] = {
        "id": identify(d.image, d.index),
        "file_name": d.image,
        "width": d.width,
        "height": d.height,
    }
    if d.frame is not None:
        image |= {"frame": d.frame, "pts_ms": d.pts_ms}
    if d.error is not None:
        image |= {"error": d.error, "failure": d.failure}
    return image


def _write_list(file: BinaryIO, items: Iterable[dict[str, Any]]) -> None:
    separator = b"[\n"
    for item in items:
        file.write(separator + orjson.dumps(item))
        separator = b",\n"
    file.write(b"\n]" if separator == b",\n" else b"[]")
