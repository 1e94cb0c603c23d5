"""ModelSpec: what a model is, as far as running it goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from brimful.errors import ModelError, UsageError

Task = Literal["detect", "segment", "pose", "obb", "classify"]
"""What a model predicts."""

Head = Literal["nms_free", "raw", "yolov5", "classify"]
"""How the first output is laid out.

- `nms_free`: (batch, k, 6 + extra), rows `x1 y1 x2 y2 score class extra...`, best first
  (obb: `cx cy w h score class angle`).
- `raw`: (batch, 4 + classes + extra, anchors), boxes `cx cy w h` in canvas pixels, scores after
  the sigmoid (v8, v11, and YOLO26's one-to-many head).
- `yolov5`: (batch, anchors, 5 + classes + extra), boxes `cx cy w h`, objectness, class scores.
- `classify`: (batch, classes) probabilities.
"""

Size = tuple[int, int]
"""(height, width) in pixels."""

Classes = int | str | Sequence[int | str]
"""Classes as callers choose them: ids, names, or both; one may come without a list around it."""

TASKS: tuple[str, ...] = get_args(Task)
HEADS: tuple[str, ...] = get_args(Head)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Facts about a model that the engine needs, from known metadata keys only.

    Attributes:
        task: What the model predicts.
        head: Layout of the first output.
        names: Class names; the position is the class id.
        imgsz: (height, width) the model was trained or exported for.
        stride: Both sides of a canvas are multiples of it.
        channels: Input channels (3: colour, 1: gray).
        kpt_shape: (keypoints, 2 or 3) of a pose model, else None.
        mask_channels: Prototype masks of a segment model, else 0.
        fixed_batch: The only batch size the file can run, or None when it is dynamic.
        fixed_size: The only (height, width) the file can run, or None when it is dynamic.
        max_det: Rows an `nms_free` head returns at most.
    """

    task: Task
    head: Head
    names: tuple[str, ...]
    imgsz: Size = (640, 640)
    stride: int = 32
    channels: int = 3
    kpt_shape: tuple[int, int] | None = None
    mask_channels: int = 0
    fixed_batch: int | None = None
    fixed_size: Size | None = None
    max_det: int = 300

    def __post_init__(self) -> None:
        """Refuse values no runtime could make sense of."""
        if self.task not in TASKS:
            raise ModelError(f"unknown task {self.task!r}; expected one of {', '.join(TASKS)}")
        if self.head not in HEADS:
            raise ModelError(f"unknown head {self.head!r}; expected one of {', '.join(HEADS)}")
        if not self.names:
            raise ModelError("a model needs at least one class name; give them with --names")
        if self.stride < 1 or self.channels not in (1, 3):
            raise ModelError(
                f"stride {self.stride} and channels {self.channels} are not possible; "
                "expected a stride of at least 1 and 1 or 3 channels"
            )
        if (self.task == "pose") != (self.kpt_shape is not None):
            raise ModelError("kpt_shape belongs to pose models, and every pose model needs one")

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def class_ids(self, classes: Classes) -> tuple[int, ...]:
        """Return the ids of some classes; a name that several classes share stands for all of them.

        Args:
            classes: Ids and names. A name is a class's whole name, in its own case.

        Raises:
            UsageError: The model has no such class; of a name with those that are close.
        """
        ids: list[int] = []
        for chosen in listed(classes):
            if isinstance(chosen, str):
                ids += self._ids_named(chosen)
            else:
                ids.append(int(chosen))
        if any(not 0 <= id < self.classes for id in ids):
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise UsageError(
                f"classes has {wrong}, but the model has {self.classes} classes, "
                f"0 to {self.classes - 1}"
            )
        return tuple(dict.fromkeys(ids))

    def _ids_named(self, name: str) -> list[int]:
        found = [id for id, known in enumerate(self.names) if known == name]
        if found:
            return found
        from difflib import get_close_matches  # only an error needs it

        by_lower = {known.lower(): known for known in reversed(self.names)}
        close = [by_lower[lower] for lower in get_close_matches(name.lower(), by_lower, n=5)]
        some = close or list(dict.fromkeys(self.names))[:5]
        more = " and others" if not close and self.classes > len(some) else ""
        word = "close is" if len(close) == 1 else "close are" if close else "it has"
        raise UsageError(f"the model has no class {name!r}; {word} {', '.join(some)}{more}")

    @property
    def extra(self) -> int:
        """Columns per detection after the class scores: mask coefficients, keypoints, angle."""
        if self.kpt_shape is not None:
            return self.kpt_shape[0] * self.kpt_shape[1]
        return {"segment": self.mask_channels, "obb": 1}.get(self.task, 0)


def listed(classes: Classes) -> tuple[int | str, ...]:
    """Return classes as a tuple, also where it is one alone."""
    if isinstance(classes, str) or not hasattr(classes, "__iter__"):
        return (classes,)
    return tuple(classes)
