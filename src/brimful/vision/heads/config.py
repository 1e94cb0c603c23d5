"""PostprocessConfig: which of a model's candidates become detections."""

from __future__ import annotations

from dataclasses import dataclass

from brimful.errors import UsageError
from brimful.spec import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessConfig:
    """Which of a model's candidates become detections. Classifiers ignore all of it.

    Attributes:
        conf: Confidence that a detection must be above, 0 to 1.
        iou: Largest overlap of two boxes of a class that both stay, 0 to 1. NMS-free heads
            suppress nothing.
        max_det: Most detections per image.
        classes: Class ids to report, None for all.
        agnostic_nms: Boxes suppress each other across classes. NMS-free heads ignore it.
        multi_label: A box may be reported once for every class above `conf` instead of for the
            best one; mAP is evaluated so. NMS-free heads ignore it.
        max_nms: Most candidates per image that NMS looks at, the best first.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    classes: tuple[int, ...] | None = None
    agnostic_nms: bool = False
    multi_label: bool = False
    max_nms: int = 30000

    def __post_init__(self) -> None:
        """Refuse values that make no sense."""
        for name in ("conf", "iou"):
            value = getattr(self, name)
            if not 0 <= value <= 1:  # NaN fails this too
                raise UsageError(f"{name} is {value}; expected 0 to 1")
        for name in ("max_det", "max_nms"):
            value = getattr(self, name)
            if value < 1:
                raise UsageError(f"{name} is {value}; expected at least 1")
        if self.classes is not None and any(c < 0 for c in self.classes):
            raise UsageError(f"classes has {min(self.classes)}; class ids start at 0")

    def check(self, spec: ModelSpec) -> None:
        """Refuse classes that a model does not have.

        Raises:
            UsageError: With the classes that it has.
        """
        if self.classes is not None and any(c >= spec.classes for c in self.classes):
            raise UsageError(
                f"classes has {max(self.classes)}, but the model has {spec.classes} classes, "
                f"0 to {spec.classes - 1}"
            )
