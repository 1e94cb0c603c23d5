"""YOLO label text: one line a detection, coordinates as fractions of the image.

`class cx cy w h confidence`; segment has the polygon of the mask in place of the box, obb the
four corners, pose its keypoints after the box. Confidence is the last column.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.detections import Detections
from brimful.formats.polygon import obb_corners
from brimful.formats.rle import decode_rle


def to_yolo_txt(detections: Detections, *, confidence: bool = True) -> str:
    """Return the label file of an image, "" without detections or for an error row.

    Classify gives one line a class, `confidence class_name`, the five best first, which is what
    YOLO tools write for it.

    Args:
        detections: The result for one image.
        confidence: Write the last column; training labels have none.
    """
    d = detections
    if d.task == "classify":
        return _classification(d)
    if not len(d):
        return ""
    lines = []
    for row, (class_id, score) in enumerate(
        zip(d.class_id.tolist(), d.confidence.tolist(), strict=True)
    ):
        columns = [f"{value:.6g}" for value in _coordinates(d, row)]
        if d.masks is not None and len(columns) < 6:  # fewer than three points are no polygon
            continue
        if confidence:
            columns.append(f"{score:.6g}")
        lines.append(" ".join((str(class_id), *columns)))
    return "".join(f"{line}\n" for line in lines)


def outline(mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the outline of a mask, (points, 2) `x y` in pixels: that of its largest part.

    A label line holds one polygon, so smaller parts and holes are lost.
    """
    import cv2

    contours: Any
    contours, _ = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    if not contours:
        return np.empty((0, 2), np.float32)
    largest = max(contours, key=lambda contour: (cv2.contourArea(contour), len(contour)))
    points: NDArray[np.float32] = np.asarray(largest, np.float32).reshape(-1, 2)
    return points


def _coordinates(d: Detections, row: int) -> list[float]:
    size = np.array((d.width, d.height), np.float64)
    if d.masks is not None:
        return list((outline(decode_rle(d.masks[row])) / size).ravel())
    if d.obb is not None:
        return list((obb_corners(d.obb[row : row + 1])[0] / size).ravel())
    x1y1, x2y2 = np.asarray(d.boxes[row], np.float64).reshape(2, 2) / size
    values = [*((x1y1 + x2y2) / 2), *(x2y2 - x1y1)]
    if d.keypoints is not None:
        points = np.asarray(d.keypoints[row], np.float64)
        points = np.concatenate((points[:, :2] / size, points[:, 2:]), axis=1)
        values += list(points.ravel())
    return values


def _classification(d: Detections) -> str:
    if d.probs is None:
        return ""
    best = np.argsort(-d.probs, kind="stable")[:5].tolist()
    return "".join(f"{d.probs[i]:.2f} {d.names[i]}\n" for i in best)
