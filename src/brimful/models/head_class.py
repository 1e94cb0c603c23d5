"""The class of a model's head: which ones are a YOLO's, and the refusal of all others.

A head of another family may have the output shape of a YOLO's and other numbers in it. RT-DETR's
rows are normalised `cx cy w h`, in the shape of an NMS-free YOLO's rows of corners in pixels.
"""

from __future__ import annotations

import re

from brimful.errors import ModelError

_YOLO = re.compile(r"(v10|World|YOLOE)?(Detect|Segment|Pose|OBB|Classify)\d*")
"""Head classes of YOLO models, of all releases of Ultralytics."""

_FAMILIES = {
    "RTDETRDecoder": "RT-DETR",
    "SemanticSegment": "semantic segmentation",
    "Depth": "depth estimation",
}

_DESCRIBED = re.compile(r"rt-?detr", re.IGNORECASE)


def check_head_class(name: str, *, origin: str) -> None:
    """Refuse a head whose rows are not a YOLO's.

    Args:
        name: Name of the head's class, as the file has it.
        origin: The file, for the error message.

    Raises:
        ModelError: It is the head of another family of models.
    """
    if not _YOLO.fullmatch(name):
        family = f" ({_FAMILIES[name]})" if name in _FAMILIES else ""
        raise _not_a_yolo(f"a {name} head{family}", origin)


def check_description(text: str, *, origin: str) -> None:
    """Refuse an RT-DETR by its description, for releases that do not write the head's class.

    Args:
        text: The metadata's description, `Ultralytics NAME model trained on DATA`.
        origin: The file, for the error message.

    Raises:
        ModelError: The name is an RT-DETR's.
    """
    name = text.partition(" model")[0]
    if _DESCRIBED.search(name):
        raise _not_a_yolo(f"the description {text.strip()!r:.80}", origin)


def _not_a_yolo(what: str, origin: str) -> ModelError:
    return ModelError(
        f"{origin} is no YOLO: expected a head of detect, segment, pose, obb or classify, found "
        f"{what}, whose output means something else. Use a YOLO model, or run this one with the "
        "library that it comes from"
    )
