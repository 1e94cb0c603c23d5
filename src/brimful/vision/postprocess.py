"""Postprocess: the outputs of a forward to the Detections of each image, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from brimful.detections import Detections, FloatArray
from brimful.errors import ModelError
from brimful.spec import Head, ModelSpec, Task
from brimful.vision.heads.classify import classify
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.heads.detect import detect
from brimful.vision.heads.obb import obb
from brimful.vision.heads.placed import Placed
from brimful.vision.heads.pose import pose
from brimful.vision.heads.rows import Rows
from brimful.vision.heads.segment import segment, segment_encoded
from brimful.vision.heads.select import (
    Select,
    select_each,
    select_nms_free,
    select_raw,
    select_yolov5,
)
from brimful.vision.heads.selected import Selected

__all__ = ["Placed", "Postprocess", "PostprocessConfig", "Selected", "build_postprocess"]

Outputs = Sequence[FloatArray] | Selected
Params = Sequence[PostprocessConfig | None] | None


class Postprocess(Protocol):
    """Turns what a forward computed into Detections. They never refer to an output's memory."""

    def __call__(
        self, outputs: Outputs, placed: Sequence[Placed], params: Params = None, /
    ) -> list[Detections]:
        """Return the Detections of each image, in order.

        Args:
            outputs: float32, first axis at least the number of images; or what was selected from
                them on the device.
            placed: The images of the batch.
            params: What becomes a detection in each image, where not all take the same setting.
                What was selected on the device has regarded it.
        """
        ...


Finish = Callable[[Rows, Sequence[FloatArray], Sequence[Placed], ModelSpec], list[Detections]]
"""Takes the rows to the original images; the arrays are the outputs after the first."""

SELECT: dict[Head, Select] = {
    "nms_free": select_nms_free,
    "raw": select_raw,
    "yolov5": select_yolov5,
}
FINISH: dict[Task, Finish] = {
    "detect": detect,
    "segment": segment,
    "pose": pose,
    "obb": obb,
}


def build_postprocess(spec: ModelSpec, config: PostprocessConfig) -> Postprocess:
    """Return the postprocess of a model.

    Raises:
        UsageError: `config.classes` names a class that the model does not have.
        ModelError: The head does not belong to the task. The postprocess itself raises it when
            an output has not the shape that `spec` says.
    """
    config = config.of_model(spec)
    if (spec.task == "classify") != (spec.head == "classify"):
        raise ModelError(f"a {spec.task} model cannot have a {spec.head} head")

    def check(outputs: Sequence[FloatArray], placed: Sequence[Placed]) -> None:
        dimensions = 2 if spec.task == "classify" else 3
        if not outputs or outputs[0].ndim != dimensions or len(outputs[0]) < len(placed):
            got = ", ".join(str(o.shape) for o in outputs) or "none"
            raise ModelError(
                f"expected a first output of {dimensions} dimensions for at least "
                f"{len(placed)} images, got {got}"
            )

    if spec.task == "classify":

        def classified(
            outputs: Outputs, placed: Sequence[Placed], params: Params = None
        ) -> list[Detections]:
            if isinstance(outputs, Selected):
                raise ModelError("a classifier's outputs are probabilities, got selected rows")
            check(outputs, placed)
            return classify(outputs, placed, spec) if placed else []

        return classified

    select, finish = SELECT[spec.head], FINISH[spec.task]

    def postprocess(
        outputs: Outputs, placed: Sequence[Placed], params: Params = None
    ) -> list[Detections]:
        if isinstance(outputs, Selected):
            return _finish_selected(outputs, placed, spec, finish)
        check(outputs, placed)
        if not placed:
            return []
        rows = select_each(select, outputs[0], len(placed), spec, config, params)
        errors = unknown_classes(rows, spec)
        if errors:
            rows = rows.where(~np.isin(rows.image, list(errors)))
        return _failed(finish(rows, outputs[1:], placed, spec), {}, errors, placed, spec)

    return postprocess


def _finish_selected(
    selected: Selected, placed: Sequence[Placed], spec: ModelSpec, finish: Finish
) -> list[Detections]:
    """Take rows that the device selected to the original images."""
    rows, masks, errors = selected.rows, selected.masks, selected.errors
    if len(rows.truncated) != len(placed) or any(i >= len(placed) for i in errors):
        raise ModelError(
            f"expected rows of {len(placed)} images, got rows of {len(rows.truncated)} and "
            f"errors of {sorted(errors)}"
        )
    if not placed:
        return []
    unknown = unknown_classes(rows, spec)
    if errors or unknown:
        good = ~np.isin(rows.image, [*errors, *unknown])
        rows = rows.where(good)
        masks = None if masks is None else masks.where(good)
    if masks is None:
        found = finish(rows, selected.arrays, placed, spec)
    else:
        found = segment_encoded(rows, masks, placed, spec)
    return _failed(found, errors, unknown, placed, spec)


def unknown_classes(rows: Rows, spec: ModelSpec) -> dict[int, str]:
    """Return an error for each image with a class id that has no name, by its position.

    Only the output of an NMS-free head holds class ids, and a file may name fewer than there are.
    """
    unknown = (rows.class_id < 0) | (rows.class_id >= spec.classes)
    if not unknown.any():
        return {}
    found: dict[int, str] = {}
    for image, class_id in zip(rows.image[unknown], rows.class_id[unknown], strict=True):
        found.setdefault(
            int(image),
            f"the model found class {class_id}, and only the classes 0 to {spec.classes - 1} have "
            "names; give the name of every class with --names",
        )
    return found


def _failed(
    found: list[Detections],
    bad: Mapping[int, str],
    unknown: Mapping[int, str],
    placed: Sequence[Placed],
    spec: ModelSpec,
) -> list[Detections]:
    """Put the failures of images in their places: of bad images, and of classes without a name."""
    for position, error in unknown.items():
        found[position] = placed[position].failed(spec, error, "runtime")
    for position, error in bad.items():
        found[position] = placed[position].failed(spec, error)
    return found
