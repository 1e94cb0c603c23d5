"""The preprocessing that a classifier's checkpoint carries: read as facts, never run.

Ultralytics saves torchvision's transforms with each classifier that it trains. The engine has one
way of its own to crop an image (`vision.letterbox.classify_crop`), so what counts is the size, and
that nothing else is asked for.
"""

from __future__ import annotations

from typing import Any

from brimful.errors import ModelError
from brimful.models.rebuild import Transform
from brimful.spec import Size

_ORDER = ["Resize", "CenterCrop", "ToTensor", "Normalize"]


def crop_of(transforms: Any) -> Size | None:
    """Return the (height, width) of the crop, or None where no crop of known size is there."""
    for step in _steps(transforms):
        if _kind(step) == "CenterCrop":
            return _size(getattr(step, "size", None))
    return None


def check_transforms(transforms: Any, size: Size) -> None:
    """Refuse a preprocessing that is not the engine's: resize, centre crop, 0 to 1.

    One whose resize is for another size than the model's is not used by Ultralytics either, which
    then makes its usual one.

    Args:
        transforms: torchvision's Compose, or what stands for it.
        size: (height, width) of the model.

    Raises:
        ModelError: Saying which step is another.
    """
    steps = _steps(transforms)
    resize = getattr(steps[0], "size", None) if steps else None
    if not steps or (_kind(steps[0]) == "Resize" and _size(resize) != size):
        return
    kinds = [_kind(step) for step in steps]
    if kinds != _ORDER:
        raise _other(f"the steps {', '.join(kinds)}")
    interpolation = getattr(steps[0], "interpolation", None)
    if getattr(interpolation, "value", interpolation) != "bilinear":
        raise _other(f"a resize with interpolation {interpolation!r:.40}")
    if size[0] == size[1] and isinstance(resize, list | tuple) and len(resize) == 2:
        raise _other(f"a resize to {tuple(resize)} that does not keep the aspect ratio")
    if crop_of(transforms) != size:
        raise _other(f"a resize to {size} and a crop of {getattr(steps[1], 'size', None)!r:.40}")
    for name, unit in (("mean", 0.0), ("std", 1.0)):
        values = _numbers(getattr(steps[3], name, None))
        if not values or any(value != unit for value in values):
            raise _other(f"a normalisation with {name} {values}")


def _steps(transforms: Any) -> list[Any]:
    steps = getattr(transforms, "transforms", None)
    return list(steps) if isinstance(steps, list | tuple) else []


def _kind(step: Any) -> str:
    """Return the name of a step's class."""
    label = step.label if type(step) is Transform else type(step).__name__
    return str(label).rpartition(".")[2]


def _size(value: Any) -> Size | None:
    """Return one or two sides as (height, width)."""
    sides = list(value) if isinstance(value, list | tuple) else [value]
    if len(sides) not in (1, 2) or not all(type(side) is int and side > 0 for side in sides):
        return None
    return sides[0], sides[-1]


def _numbers(value: Any) -> list[float]:
    """Return the numbers of a sequence or tensor."""
    return [float(number) for number in value] if hasattr(value, "__len__") else []


def _other(what: str) -> ModelError:
    return ModelError(
        f"the checkpoint preprocesses images with {what}: expected a bilinear resize of the "
        "shorter side, a centre crop of the same size, and pixels from 0 to 1, which is what "
        "brimful does for a classifier. Run it with Ultralytics"
    )
