"""Signature: the shapes of a model's inputs and outputs, and the ModelSpec they imply.

One place turns "what the file says of itself" plus "what its tensors look like" into a
ModelSpec, for every file format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brimful.errors import ModelError
from brimful.models.metadata import Metadata
from brimful.spec import Head, ModelSpec, Size, Task

Shape = tuple[int | None, ...]
"""A tensor's shape; None for a dimension that the file leaves open."""


@dataclass(frozen=True, slots=True)
class Signature:
    """Shapes of a model file.

    Attributes:
        inputs: Shape of each input; the first is the image (batch, channels, height, width).
        outputs: Shape of each output.
    """

    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]

    @property
    def tells_layout(self) -> bool:
        """Whether the first output's shape says more than its rank."""
        return bool(self.outputs) and any(side is not None for side in self.outputs[0][1:])

    def probe_size(self, metadata: Metadata) -> Size:
        """Return the (height, width) to try the model at, where its shapes tell too little."""
        shape = self.inputs[0] if self.inputs and len(self.inputs[0]) == 4 else (None,) * 4
        default = metadata.imgsz or (640, 640)
        return shape[2] or default[0], shape[3] or default[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecOverrides:
    """What the user says of a model, above what its file says.

    Attributes:
        task: `--task`.
        names: `--names`.
    """

    task: Task | None = None
    names: tuple[str, ...] | None = None


PIXEL_TYPES = ("tensor(float)", "tensor(float16)", "f32", "f16")
"""Element types of an input that runtimes can feed, as onnxruntime and OpenVINO call them."""


def check_input_type(kind: str, *, origin: str) -> None:
    """Refuse an input that is not pixels from 0 to 1 as floating point numbers.

    An input of bytes means that the file normalises by itself, and nothing in it tells how.

    Args:
        kind: Element type of the input, as a runtime calls it.
        origin: The file, for the error message.

    Raises:
        ModelError: It is another type.
    """
    if kind not in PIXEL_TYPES:
        raise ModelError(
            f"{origin}: expected an input of float32 or float16 pixels from 0 to 1, found {kind}. "
            "Export it without pixel normalisation in the graph, as Ultralytics does"
        )


def spec_from(
    signature: Signature, metadata: Metadata, overrides: SpecOverrides, *, origin: str
) -> ModelSpec:
    """Combine shapes, metadata and the user's word into a ModelSpec.

    Raises:
        ModelError: The file is no YOLO model that brimful can run, or too little is known.
    """
    task = overrides.task or metadata.task
    names = overrides.names or metadata.names
    missing = [flag for flag, value in (("--task", task), ("--names", names)) if value is None]
    if task is None or names is None:
        raise ModelError(
            f"{origin} carries no metadata that tells its task and class names. "
            f"Say them with {' and '.join(missing)}, for example: --task detect --names bolt,nut "
            "(or --names FILE with one name a line)"
        )
    if len(signature.inputs) != 1 or len(signature.inputs[0]) != 4:
        raise ModelError(
            f"{origin}: expected one input of shape (batch, channels, height, width), "
            f"found {_shapes(signature.inputs)}"
        )
    _check_classes(names, metadata, overrides, origin)
    batch, channels, height, width = signature.inputs[0]
    if channels not in (1, 3, None):
        last = " with the channels last (NHWC)" if width in (1, 3) else ""
        raise ModelError(
            f"{origin}: expected an input of shape (batch, channels, height, width) with 1 or 3 "
            f"channels, found {_shapes(signature.inputs)}{last}. Export it with the channels "
            "before height and width (NCHW)"
        )
    fixed_size: Size | None = (height, width) if height and width else None
    if not signature.tells_layout:
        raise ModelError(f"{origin}: the shape of its output is unknown")
    kpt_shape = metadata.kpt_shape if task == "pose" else None
    mask_channels = _mask_channels(task, signature.outputs, origin)
    if task == "pose" and kpt_shape is None:
        raise ModelError(f"{origin}: a pose model needs the metadata key 'kpt_shape', and has none")
    extra = _extra(task, kpt_shape, mask_channels)
    head = _head(task, len(names), extra, signature.outputs, metadata, origin)
    if head == "nms_free" and metadata.nms_inside is not False:
        batch = batch or metadata.batch
    imgsz = fixed_size or metadata.imgsz or ((224, 224) if task == "classify" else (640, 640))
    return ModelSpec(
        task=task,
        head=head,
        names=names,
        imgsz=imgsz,
        stride=metadata.stride or 32,
        channels=channels or metadata.channels or 3,
        kpt_shape=kpt_shape,
        mask_channels=mask_channels,
        fixed_batch=batch,
        fixed_size=fixed_size,
        max_det=_rows(signature.outputs) if head == "nms_free" else 300,
    )


def _check_classes(
    names: Sequence[str], metadata: Metadata, overrides: SpecOverrides, origin: str
) -> None:
    """Refuse names of which there are too few or too many, where the number is known."""
    said = f"--names gives {len(names)}" if overrides.names else f"it names {len(names)}"
    if metadata.classes not in (None, len(names)):
        raise ModelError(
            f"{origin}: its head has {metadata.classes} classes, and {said}; the number of --names "
            f"must be {metadata.classes}, in the order of the class ids"
        )
    # An NMS-free output does not tell its classes: the file may name fewer than there are.
    if metadata.names is not None and len(metadata.names) > len(names):
        raise ModelError(
            f"{origin}: its metadata names {len(metadata.names)} classes, and {said}; the number "
            f"of --names must be {len(metadata.names)}, in the order of the class ids"
        )


def _extra(task: Task, kpt_shape: tuple[int, int] | None, mask_channels: int) -> int:
    if kpt_shape is not None:
        return kpt_shape[0] * kpt_shape[1]
    return {"segment": mask_channels, "obb": 1}.get(task, 0)


def _mask_channels(task: Task, outputs: Sequence[Shape], origin: str) -> int:
    if task != "segment":
        return 0
    prototypes = [shape for shape in outputs if len(shape) == 4]
    if len(outputs) != 2 or len(prototypes) != 1 or prototypes[0][1] is None:
        raise ModelError(
            f"{origin}: a segment model has two outputs, the detections and the prototypes "
            f"(batch, channels, height, width); found {_shapes(outputs)}"
        )
    return prototypes[0][1]


def _rows(outputs: Sequence[Shape]) -> int:
    rows = outputs[0][1] if len(outputs[0]) == 3 else None
    return rows or 300


def _head(
    task: Task,
    classes: int,
    extra: int,
    outputs: Sequence[Shape],
    metadata: Metadata,
    origin: str,
) -> Head:
    """Tell the layout from the shape; the metadata only settles what the shape leaves open."""
    shape = outputs[0] if outputs else ()
    if task == "classify":
        if len(shape) == 2 and shape[1] in (None, classes):
            return "classify"
        raise _unknown_layout(task, classes, extra, outputs, origin)
    if len(shape) != 3:
        raise _unknown_layout(task, classes, extra, outputs, origin)
    _, middle, last = shape
    candidates: list[Head] = []
    if middle == 4 + classes + extra:
        candidates.append("raw")
    if last == 6 + extra:
        candidates.append("nms_free")
    if last == 5 + classes + extra:
        candidates.append("yolov5")
    if metadata.end_to_end is not None and len(candidates) > 1:
        wanted = {True: ("nms_free",), False: ("raw", "yolov5")}[metadata.end_to_end]
        candidates = [head for head in candidates if head in wanted]
    if len(candidates) > 1 and "nms_free" in candidates and "yolov5" in candidates:
        # One class: 6 columns both ways. An NMS-free head returns at most a few hundred rows.
        candidates = ["nms_free" if (middle or 301) <= 300 else "yolov5"]
    if len(candidates) != 1:
        raise _unknown_layout(task, classes, extra, outputs, origin)
    if candidates == ["nms_free"] and metadata.end_to_end is False:
        raise ModelError(
            f"{origin}: its output {_shapes(outputs)} could only be that of an NMS-free head, and "
            "its metadata says that it is none (end2end is False). It is no YOLO, or the metadata "
            "belongs to another file: export the model again"
        )
    return candidates[0]


def _unknown_layout(
    task: Task, classes: int, extra: int, outputs: Sequence[Shape], origin: str
) -> ModelError:
    if task == "classify":
        expected = f"(batch, {classes})"
    else:
        expected = (
            f"(batch, {4 + classes + extra}, anchors), (batch, k, {6 + extra}) or "
            f"(batch, anchors, {5 + classes + extra})"
        )
    return ModelError(
        f"{origin}: no known output layout for task {task!r} with {classes} classes: expected "
        f"{expected}, found {_shapes(outputs)}. Check --task and the number of --names"
    )


def _shapes(shapes: Sequence[Shape]) -> str:
    shown = [
        "(" + ", ".join("?" if side is None else str(side) for side in shape) + ")"
        for shape in shapes
    ]
    return " and ".join(shown) or "none"
