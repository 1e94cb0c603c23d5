"""PostprocessConfig: which of a model's candidates become detections."""

from __future__ import annotations

from dataclasses import dataclass, replace

from brimful.errors import UsageError
from brimful.spec import Classes, ModelSpec, listed


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessConfig:
    """Which of a model's candidates become detections. Classifiers ignore all of it.

    Attributes:
        conf: Confidence that a detection must be above, 0 to 1.
        iou: Largest overlap of two boxes of a class that both stay, 0 to 1. NMS-free heads
            suppress nothing.
        max_det: Most detections per image.
        classes: Class ids to report, None for all.
        class_names: Names of more classes to report; `of_model` makes ids of them.
        agnostic_nms: Boxes suppress each other across classes. NMS-free heads ignore it.
        multi_label: A box may be reported once for every class above `conf` instead of for the
            best one; mAP is evaluated so. NMS-free heads ignore it.
        max_nms: Most candidates per image that NMS looks at, the best first.
    """

    conf: float = 0.25
    iou: float = 0.7
    max_det: int = 300
    classes: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
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

    def reporting(self, classes: Classes | None) -> PostprocessConfig:
        """Return the same for some classes, ids and names, whatever the model; None for all."""
        chosen = None if classes is None else listed(classes)
        return replace(
            self,
            classes=None if chosen is None else tuple(c for c in chosen if not isinstance(c, str)),
            class_names=tuple(c for c in chosen or () if isinstance(c, str)),
        )

    def of_model(self, spec: ModelSpec) -> PostprocessConfig:
        """Return the same with ids in the place of names.

        Raises:
            UsageError: The model has no such class.
        """
        if self.classes is None and not self.class_names:
            return self
        ids = spec.class_ids((*(self.classes or ()), *self.class_names))
        return replace(self, classes=ids, class_names=())
