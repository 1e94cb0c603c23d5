"""From a head's output to Rows: the confidence cut and NMS, one function per layout.

Every function reads the first `count` images of the output only; what a runtime left in the
padded tail of a batch does not matter. Rows never refer to the output's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from brimful.detections import FloatArray, IntArray
from brimful.errors import ModelError
from brimful.spec import ModelSpec
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.heads.rows import Rows
from brimful.vision.nms import nms, rotated_nms

Select = Callable[[FloatArray, int, ModelSpec, PostprocessConfig], Rows]
"""Selects from the output for so many images."""


def select_each(
    select: Select,
    output: FloatArray,
    count: int,
    spec: ModelSpec,
    config: PostprocessConfig,
    params: Sequence[PostprocessConfig | None] | None,
) -> Rows:
    """Select with the setting of each image.

    Args:
        select: The function of the output's layout.
        output: As it takes it.
        count: Images to select from.
        spec: The model.
        config: The setting of images that have none of their own.
        params: Of each image, or None where all take `config`.
    """
    if params is None:
        return select(output, count, spec, config)
    groups: dict[PostprocessConfig, list[int]] = {}
    for image, own in enumerate(params):
        groups.setdefault(own or config, []).append(image)
    if len(groups) == 1:
        return select(output, count, spec, next(iter(groups)))
    truncated = np.zeros(count, np.bool_)
    found = []
    for own, images in groups.items():
        rows = select(output[images], len(images), spec, own)
        truncated[images] = rows.truncated
        found.append(replace(rows, image=np.asarray(images, np.intp)[rows.image]))
    order = np.argsort(np.concatenate([rows.image for rows in found]), kind="stable")
    return Rows(
        image=np.concatenate([rows.image for rows in found])[order],
        boxes=np.concatenate([rows.boxes for rows in found])[order],
        confidence=np.concatenate([rows.confidence for rows in found])[order],
        class_id=np.concatenate([rows.class_id for rows in found])[order],
        extra=np.concatenate([rows.extra for rows in found])[order],
        truncated=truncated,
    )


def select_nms_free(
    output: FloatArray, count: int, spec: ModelSpec, config: PostprocessConfig
) -> Rows:
    """Select from (batch, k, 6 + extra), rows `x1 y1 x2 y2 score class extra...`, best first."""
    _check(output, spec, (output.shape[1], 6 + spec.extra))
    output = output[:count]
    keep = output[:, :, 4] > config.conf
    if config.classes is not None:
        with np.errstate(invalid="ignore"):  # a row that is cut anyway may hold NaN
            keep &= np.isin(output[:, :, 5].astype(np.int32), config.classes)
    if output.shape[1] > config.max_det:
        keep &= np.cumsum(keep, axis=1) <= config.max_det
    image, row = np.nonzero(keep)
    rows = output[image, row]
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        image, rows = image[finite], rows[finite]
    return Rows(
        image=image,
        boxes=rows[:, :4],
        confidence=rows[:, 4].copy(),  # results keep it, and not the rest of the row
        # An id that int32 cannot hold stays one that no model has.
        class_id=class_ids(rows[:, 5]),
        extra=rows[:, 6:],
        truncated=np.zeros(count, np.bool_),
    )


def class_ids(values: FloatArray) -> IntArray:
    """Return class ids as a head wrote them, int32; what is beyond any class stays beyond."""
    ids: IntArray = np.clip(values, -1, np.float32(2**30)).astype(np.int32)
    return ids


def select_raw(output: FloatArray, count: int, spec: ModelSpec, config: PostprocessConfig) -> Rows:
    """Select from (batch, 4 + classes + extra, anchors), boxes `cx cy w h`."""
    stop = 4 + spec.classes
    _check(output, spec, (stop + spec.extra, output.shape[2]))
    output = output[:count]
    # the best class alone decides who is a candidate, before anything is moved around
    candidates = output[:, 4:stop].max(axis=1) > config.conf
    found = []
    for image, mask in zip(output, candidates, strict=True):
        columns = image[:, np.flatnonzero(mask)]
        scores = columns[4:stop]
        found.append(_select(columns[:4].T, scores, columns[stop:].T, spec, config))
    return _join(found, spec)


def select_yolov5(
    output: FloatArray, count: int, spec: ModelSpec, config: PostprocessConfig
) -> Rows:
    """Select from (batch, anchors, 5 + classes + extra), boxes `cx cy w h`, then objectness.

    The confidence of a class is its score times the objectness.
    """
    stop = 5 + spec.classes
    _check(output, spec, (output.shape[1], stop + spec.extra))
    output = output[:count]
    candidates = output[:, :, 4] > config.conf  # a class score is at most 1
    found = []
    for image, mask in zip(output, candidates, strict=True):
        rows = image[np.flatnonzero(mask)]
        scores = rows[:, 5:stop].T * rows[:, 4]
        found.append(_select(rows[:, :4], scores, rows[:, stop:], spec, config))
    return _join(found, spec)


Found = tuple[FloatArray, FloatArray, IntArray, FloatArray, bool]
"""Boxes, confidence, classes, extra of one image, and whether it was truncated."""


def _select(
    boxes: FloatArray,
    scores: FloatArray,
    extra: FloatArray,
    spec: ModelSpec,
    config: PostprocessConfig,
) -> Found:
    """Run NMS on the candidates of one image.

    Args:
        boxes: (n, 4) `cx cy w h`.
        scores: (classes, n).
        extra: (n, extra).
        spec: The model.
        config: What to keep.
    """
    index: NDArray[np.intp]
    if config.multi_label and spec.classes > 1:
        index, label = np.nonzero(np.transpose(scores) > config.conf)
        confidence = scores[label, index]
    else:
        label = scores.argmax(axis=0)
        confidence = np.take_along_axis(scores, label[None], axis=0)[0]
        index = np.flatnonzero(confidence > config.conf)
        label, confidence = label[index], confidence[index]
    keep = np.isfinite(boxes.sum(axis=1))[index]
    if config.classes is not None:
        keep &= np.isin(label, config.classes)
    if not keep.all():
        index, label, confidence = index[keep], label[keep], confidence[keep]
    truncated = len(index) > config.max_nms
    if truncated:
        best = np.argsort(-confidence, kind="stable")[: config.max_nms]
        index, label, confidence = index[best], label[best], confidence[best]
    class_id = label.astype(np.int32)
    boxes = boxes[index]
    groups = None if config.agnostic_nms or spec.classes == 1 else class_id
    if spec.task == "obb":
        rotated = np.concatenate((boxes, extra[index]), axis=1)
        kept = rotated_nms(rotated, confidence, config.iou, classes=groups, limit=config.max_det)
    else:
        half = boxes[:, 2:] / 2
        boxes = np.concatenate((boxes[:, :2] - half, boxes[:, :2] + half), axis=1)
        kept = nms(boxes, confidence, config.iou, classes=groups, limit=config.max_det)
    return boxes[kept], confidence[kept], class_id[kept], extra[index[kept]], truncated


def _join(found: list[Found], spec: ModelSpec) -> Rows:
    """Concatenate the images of a batch."""
    counts = [len(confidence) for _, confidence, *_ in found]
    none: Found = (
        np.empty((0, 4), np.float32),
        np.empty(0, np.float32),
        np.empty(0, np.int32),
        np.empty((0, spec.extra), np.float32),
        False,
    )
    boxes, confidence, class_id, extra, _ = zip(*(found or [none]), strict=True)
    return Rows(
        image=np.repeat(np.arange(len(found)), counts),
        boxes=np.concatenate(boxes),
        confidence=np.concatenate(confidence),
        class_id=np.concatenate(class_id),
        extra=np.concatenate(extra),
        truncated=np.array([truncated for *_, truncated in found], np.bool_),
    )


def _check(output: FloatArray, spec: ModelSpec, expected: tuple[int, int]) -> None:
    """Refuse an output that does not fit the model's facts."""
    if output.shape[1:] != expected:
        raise ModelError(
            f"expected an output of (batch, {expected[0]}, {expected[1]}) for a {spec.head} "
            f"{spec.task} head of {spec.classes} classes and {spec.extra} extra values, got "
            f"{output.shape}; are the class names and the task right?"
        )
