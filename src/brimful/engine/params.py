"""Parameters of a request or a job, where they differ from the engine's setting."""

from __future__ import annotations

from dataclasses import replace

from brimful.errors import UsageError
from brimful.spec import Classes, ModelSpec, Size
from brimful.vision.canvas import rounded_up
from brimful.vision.heads.config import PostprocessConfig


def params_of(
    own: PostprocessConfig,
    spec: ModelSpec,
    *,
    conf: float | None,
    iou: float | None,
    max_det: int | None,
    classes: Classes | None,
) -> PostprocessConfig | None:
    """Return what a request reports, None where it takes the engine's setting.

    Args:
        own: The engine's setting.
        spec: What the model is.
        conf: The request's confidence, or None.
        iou: The request's largest overlap, or None.
        max_det: The request's most detections, or None.
        classes: Ids and names of the request's classes, or None.

    Raises:
        UsageError: A value makes no sense, the model has no such class, or `max_det` is more than
            the engine's.
    """
    if conf is None and iou is None and max_det is None and classes is None:
        return None
    params = replace(
        own,
        conf=own.conf if conf is None else conf,
        iou=own.iou if iou is None else iou,
        max_det=own.max_det if max_det is None else max_det,
        classes=own.classes if classes is None else spec.class_ids(classes),
    )
    if params.max_det > own.max_det:
        raise UsageError(
            f"max_det is {params.max_det}, and the engine was loaded with max_det={own.max_det}, "
            "which is the most that a request may have"
        )
    return params


def check_imgsz(asked: int | Size | None, own: Size, stride: int) -> None:
    """Refuse a size of images that an engine was not loaded with.

    Canvases decide what a runtime compiles and how much memory it holds, so they are an engine's.

    Args:
        asked: One side, or (height, width), of a call; None for the engine's.
        own: The engine's (height, width).
        stride: Of the model; sides are rounded up to multiples of it, as when it is loaded.

    Raises:
        UsageError: They differ.
    """
    size = (asked, asked) if isinstance(asked, int) else asked
    if size is not None and own not in (tuple(size), rounded_up((size[0], size[1]), stride)):
        raise UsageError(
            f"imgsz {asked} is not this engine's, {own[0]}x{own[1]}; load another one: "
            f"brimful.load(..., imgsz={asked})"
        )
