"""COCO results: what `pycocotools.COCO.loadRes` takes, and the category ids in it.

One object a detection: `image_id`, `category_id`, `bbox` (x y width height in pixels), `score`,
and by task `segmentation` (RLE; of obb the polygon) or `keypoints` (x y confidence, flat).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.formats.polygon import obb_corners

CategoryMap = Literal["auto", "coco91", "zero", "one"]
"""How class ids become category ids.

- `coco91`: the ids of COCO's annotation files, 1 to 90 with gaps, for its 80 classes.
- `zero`: the class id. `one`: the class id plus one.
- `auto`: `coco91` when the model has COCO's 80 class names in their order, else `zero`.
"""

CATEGORY_MAPS: tuple[str, ...] = get_args(CategoryMap)

# Ids between 1 and 90 that COCO reserved and never annotated (instances_*2017.json).
_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
COCO91 = tuple(i for i in range(1, 91) if i not in _GAPS)
"""Category id of each of COCO's 80 classes."""

COCO_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse"),
    *("remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier"),
    "toothbrush",
)
"""COCO's 80 classes in the order of their ids."""


def resolve_categories(categories: CategoryMap, names: Sequence[str]) -> CategoryMap:
    """Return the map that is meant: `auto` resolved, the rest checked.

    Raises:
        UsageError: There is no such map, or `coco91` for other than 80 classes.
    """
    if categories not in CATEGORY_MAPS:
        raise UsageError(
            f"unknown category map {categories!r}; expected one of {', '.join(CATEGORY_MAPS)}"
        )
    if categories == "auto":
        return "coco91" if tuple(names) == COCO_NAMES else "zero"
    if categories == "coco91" and len(names) != len(COCO91):
        raise UsageError(
            f"the category map coco91 is for COCO's 80 classes; the model has {len(names)}. "
            "Use zero or one"
        )
    return categories


def category_ids(categories: CategoryMap, names: Sequence[str]) -> tuple[int, ...]:
    """Return the category id of each class.

    Raises:
        UsageError: As `resolve_categories`.
    """
    resolved = resolve_categories(categories, names)
    if resolved == "coco91":
        return COCO91
    first = 1 if resolved == "one" else 0
    return tuple(range(first, first + len(names)))


def numeric_stem(key: str) -> int | None:
    """Return the file name of a key without its suffix as a number, None when it is none.

    Only ASCII digits count: `2007_000027` is a name, although Python reads it as an integer.
    """
    stem = PurePosixPath(key).stem
    return int(stem) if stem.isascii() and stem.isdigit() else None


def to_results(
    detections: Detections, *, image_id: int, categories: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the COCO results of an image.

    Args:
        detections: Of any task but classify; an error row gives an empty list.
        image_id: The id of the image in the annotations.
        categories: Category id of each class, see `category_ids`.

    Returns:
        Objects of plain Python values, one a detection.

    Raises:
        UsageError: The task is classify, for which COCO has no results.
    """
    d = detections
    if d.task == "classify":
        raise UsageError("COCO has no results for classify; use jsonl, json or parquet")
    boxes = np.asarray(d.boxes, np.float64)
    sizes = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
    results: list[dict[str, Any]] = [
        {"image_id": image_id, "category_id": categories[class_id], "bbox": box, "score": score}
        for box, score, class_id in zip(
            sizes.tolist(), d.confidence.tolist(), d.class_id.tolist(), strict=True
        )
    ]
    if d.masks is not None:
        for result, mask in zip(results, d.masks, strict=True):
            result["segmentation"] = mask
    if d.keypoints is not None:
        points = d.keypoints
        if points.shape[2] == 2:  # no visibility predicted: all are taken as seen
            points = np.concatenate((points, np.ones_like(points[:, :, :1])), axis=2)
        for result, row in zip(results, points.reshape(len(points), -1).tolist(), strict=True):
            result["keypoints"] = row
    if d.obb is not None:
        corners = obb_corners(d.obb).reshape(-1, 8).tolist()
        for result, polygon in zip(results, corners, strict=True):
            result["segmentation"] = [polygon]
    return results
