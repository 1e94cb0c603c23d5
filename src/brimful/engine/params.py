"""params_of: what a request reports, where it differs from the engine's setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from brimful.errors import UsageError
from brimful.spec import ModelSpec
from brimful.vision.heads.config import PostprocessConfig


def params_of(
    own: PostprocessConfig,
    spec: ModelSpec,
    *,
    conf: float | None,
    iou: float | None,
    max_det: int | None,
    classes: Sequence[int] | None,
) -> PostprocessConfig | None:
    """Return what a request reports, None where it takes the engine's setting.

    Args:
        own: The engine's setting.
        spec: What the model is.
        conf: The request's confidence, or None.
        iou: The request's largest overlap, or None.
        max_det: The request's most detections, or None.
        classes: The request's class ids, or None.

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
        classes=own.classes if classes is None else tuple(classes),
    )
    params.check(spec)
    if params.max_det > own.max_det:
        raise UsageError(
            f"max_det is {params.max_det}, and the engine was loaded with max_det={own.max_det}, "
            "which is the most that a request may have"
        )
    return params
