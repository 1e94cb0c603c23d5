"""Model metadata: the known keys of a model file, checked, and nothing else.

Exporters write a flat mapping of text into the file. A file may hold anything under any key, so
only the keys below are looked at, each is parsed as a literal (never evaluated), and a value of
the wrong kind is refused with the key's name.
"""

from __future__ import annotations

import ast
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from brimful.errors import ModelError
from brimful.models.head_class import check_description, check_head_class
from brimful.spec import TASKS, Size, Task

MAX_CLASSES = 100_000
MAX_NAME_LENGTH = 256
MAX_PIXELS = 8192 * 8192
"""Of the size a model was made for, at which it may be tried to learn its shapes."""

_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a model file says of itself; None where it says nothing.

    Attributes:
        task: What the model predicts.
        names: Class names by class id.
        stride: Largest stride of the model.
        imgsz: (height, width) of training or export.
        kpt_shape: (keypoints, 2 or 3) of a pose model.
        channels: Input channels.
        end_to_end: The output needs no NMS (an NMS-free head, or NMS inside the graph).
        classes: Classes that the head computes; known of a checkpoint only.
        nms_inside: The graph ends with NMS; None where nothing is said of it.
        batch: The batch of the export. A graph that ends with NMS has a copy of it for each image
            of that batch, and finds nothing in further ones, whatever its batch axis allows.
    """

    task: Task | None = None
    names: tuple[str, ...] | None = None
    stride: int | None = None
    imgsz: Size | None = None
    kpt_shape: tuple[int, int] | None = None
    channels: int | None = None
    end_to_end: bool | None = None
    classes: int | None = None
    nms_inside: bool | None = None
    batch: int | None = None


def parse_metadata(raw: Mapping[str, Any], *, origin: str) -> Metadata:
    """Read the known keys of an exporter's metadata.

    Args:
        raw: Keys and values, as text (ONNX, TorchScript) or already typed (YAML).
        origin: The file, for error messages.

    Raises:
        ModelError: A known key holds something of the wrong kind, or the model is no YOLO.
    """
    if (head := _text(raw.get("head"))) is not None:
        check_head_class(head, origin=origin)
    if (description := _text(raw.get("description"))) is not None:
        check_description(description, origin=origin)
    args = _literal(raw.get("args"))
    end_to_end = _literal(raw.get("end2end"))
    nms_inside = None if end_to_end is None else False  # old releases wrote neither
    if isinstance(args, Mapping):
        nms_inside = args.get("nms") is True
    return Metadata(
        task=_task(raw.get("task"), origin),
        names=_names(_literal(raw.get("names")), origin),
        stride=_integer(raw.get("stride"), "stride", origin),
        imgsz=_size(_literal(raw.get("imgsz")), origin),
        kpt_shape=_kpt_shape(_literal(raw.get("kpt_shape")), origin),
        channels=_integer(raw.get("channels"), "channels", origin),
        end_to_end=None
        if end_to_end is None and not nms_inside
        else bool(end_to_end) or bool(nms_inside),
        nms_inside=nms_inside,
        batch=_batch(raw.get("batch"), nms_inside, origin),
    )


def _text(value: Any) -> str | None:
    """Return text that says something; exporters write a missing value as `None`."""
    return value if isinstance(value, str) and _literal(value) is not None else None


def _literal(value: Any) -> Any:
    """Parse text as a Python or JSON literal; leave anything else, and plain text, as it is."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    words = {"true": True, "false": False, "null": None, "none": None, "": None}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _wrong(key: str, expected: str, value: object, origin: str) -> ModelError:
    shown = _brief.repr(value)  # a YAML of a few lines may name billions of items
    shown = shown if len(shown) < 80 else shown[:77] + "..."
    return ModelError(f"{origin}: its metadata key {key!r} should be {expected}, but is {shown}")


def _task(value: Any, origin: str) -> Task | None:
    if value is None:
        return None
    if value not in TASKS:
        raise _wrong("task", f"one of {', '.join(TASKS)}", value, origin)
    task: Task = value
    return task


def _integer(value: Any, key: str, origin: str) -> int | None:
    value = _literal(value)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= 4096:
        raise _wrong(key, "a positive integer", value, origin)
    return value


def _batch(value: Any, nms_inside: bool | None, origin: str) -> int | None:
    """Return the batch of an export that may have NMS inside; for any other it does not matter."""
    if nms_inside is False:
        return None
    try:
        return _integer(value, "batch", origin)
    except ModelError:
        if nms_inside:
            raise
        return None


def _names(value: Any, origin: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, Mapping):
        try:
            by_id = {int(k): v for k, v in value.items()}
        except (TypeError, ValueError):
            raise _wrong("names", "class ids with their names", value, origin) from None
        if sorted(by_id) != list(range(len(by_id))):
            raise _wrong("names", "numbered 0, 1, 2, ... without gaps", value, origin)
        value = [by_id[i] for i in range(len(by_id))]
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_CLASSES:
        raise _wrong("names", "a list or a mapping of class names", value, origin)
    if not all(isinstance(name, str | int | float) for name in value):
        raise _wrong("names", "a list or a mapping of class names", value, origin)
    names = tuple(str(name) for name in value)
    if any(len(name) > MAX_NAME_LENGTH for name in names):
        raise _wrong("names", f"names of at most {MAX_NAME_LENGTH} characters", value, origin)
    return names


def _size(value: Any, origin: str) -> Size | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if (
        not isinstance(value, list | tuple)
        or len(value) not in (1, 2)
        or not all(type(side) is int and 0 < side <= 65536 for side in value)
        or value[0] * value[-1] > MAX_PIXELS
    ):
        raise _wrong("imgsz", f"one or two sides, {MAX_PIXELS} pixels at most", value, origin)
    return int(value[0]), int(value[-1])


def _kpt_shape(value: Any, origin: str) -> tuple[int, int] | None:
    if value is None:
        return None
    if (
        not isinstance(value, list | tuple)
        or len(value) != 2
        or not all(type(n) is int for n in value)
        or not (0 < value[0] <= 4096 and value[1] in (2, 3))
    ):
        raise _wrong("kpt_shape", "(keypoints, 2 or 3)", value, origin)
    return int(value[0]), int(value[1])
