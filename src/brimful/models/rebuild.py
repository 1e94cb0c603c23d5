"""The calls a checkpoint may make while it is read, each in our own words.

A pickle names a function and its arguments. None of the functions below is the one that the file
names: each is a stand-in that checks its arguments' exact types and does the one thing that a
checkpoint needs it for.
"""

from __future__ import annotations

import datetime
import functools
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

from brimful.errors import ModelError

_NUMBER = re.compile(r"[<>=|]?([biufc]\d{1,2}|\?)")
"""dtypes of NumPy that hold plain numbers; any other may refer to memory that is not its own."""


class Transform:
    """A step of a classifier's preprocessing: its name and attributes. It can do nothing."""

    __slots__ = ("__dict__", "label")

    def __init__(self, label: str) -> None:
        """Remember the name."""
        self.label = label


class _NumberType:
    """Stands for a numpy.dtype, whose own pickled state can be made to read foreign memory."""

    __slots__ = ("code",)

    def __init__(self, code: str) -> None:
        self.code = code

    def restore(self, state: object) -> None:
        """Take the byte order out of a dtype's state (version, order, ...); ignore the rest."""
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if order not in ("<", ">", "=", "|"):
            raise ModelError(f"a NumPy number type of byte order {order!r}")
        self.code = order + self.code.lstrip("<>=|")


def _expect(function: str, *pairs: tuple[object, type | tuple[type, ...]]) -> None:
    """Refuse an argument whose type is not exactly one of those that belong there."""
    for value, types in pairs:
        allowed = types if isinstance(types, tuple) else (types,)
        if type(value) not in allowed:
            raise ModelError(f"{function} is called with a {type(value).__name__}")


def _tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: object = False,
    hooks: object = None,
    metadata: object = None,
) -> Any:
    """Make a tensor of a storage; gradients and hooks are of no use here."""
    import torch

    _expect(
        "_rebuild_tensor",
        (storage, torch.storage.TypedStorage),
        (offset, int),
        (size, (tuple, torch.Size)),
        (stride, (tuple, torch.Size)),
        (metadata, (type(None), dict)),
    )
    for side in (*size, *stride):
        _expect("_rebuild_tensor", (side, int))
    _check_bounds(storage, offset, size, stride)
    if metadata:
        raise ModelError(f"a tensor has metadata: {metadata!r:.80}")
    return torch._utils._rebuild_tensor(storage, offset, size, stride)  # type: ignore[no-untyped-call]


def _check_bounds(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int]) -> None:
    """Refuse a tensor that is larger than its storage: torch would grow that, by foreign memory."""
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=False))
    fits = last < held and math.prod(size) <= held
    if min(offset, *size, *stride, 0) < 0 or len(size) != len(stride) or not (fits or 0 in size):
        raise ModelError(
            f"the checkpoint is damaged: a tensor of {tuple(size)!r:.60} numbers, "
            f"{tuple(stride)!r:.60} apart, from {offset} on, is not within its storage of {held}"
        )


def _parameter(data: Any, requires_grad: object = False, hooks: object = None, *_: object) -> Any:
    """Make a parameter; attributes hung onto it are dropped."""
    import torch

    _expect("_rebuild_parameter", (data, torch.Tensor))
    return torch.nn.Parameter(data, requires_grad=False)


def _size(sides: Any) -> Any:
    import torch

    _expect("torch.Size", (sides, (tuple, list)))
    return torch.Size(sides)


def _device(kind: Any, index: Any = None) -> Any:
    import torch

    _expect("torch.device", (kind, str), (index, (int, type(None))))
    return torch.device(kind) if index is None else torch.device(kind, index)


def _ordered_dict(pairs: Any = ()) -> OrderedDict[Any, Any]:
    _expect("OrderedDict", (pairs, (tuple, list)))
    for pair in pairs:
        _expect("OrderedDict", (pair, (tuple, list)))
    return OrderedDict(pairs)


def _set(items: Any = ()) -> set[Any]:
    _expect("set", (items, (tuple, list)))
    return set(items)


def _frozenset(items: Any = ()) -> frozenset[Any]:
    _expect("frozenset", (items, (tuple, list)))
    return frozenset(items)


def _slice(start: Any, stop: Any, step: Any) -> slice:
    for value in (start, stop, step):
        _expect("slice", (value, (int, type(None))))
    return slice(start, stop, step)


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in a pickle of protocol 2."""
    _expect("_codecs.encode", (text, str), (encoding, str))
    if encoding != "latin1":
        raise ModelError(f"_codecs.encode is called for {encoding!r}")
    return bytes(text, "latin1")


def _path(*parts: Any) -> str:
    """A checkpoint carries its training paths; they are only ever text to us."""
    for part in parts:
        _expect("pathlib.Path", (part, str))
    return "/".join(parts)


def _datetime(packed: Any) -> str:
    _expect("datetime", (packed, bytes))
    unpack: Any = datetime.datetime  # its packed form is not in its declared signature
    return str(unpack(packed))


def _number_type(code: Any, *_: object) -> _NumberType:
    _expect("numpy.dtype", (code, str))
    if not _NUMBER.fullmatch(code):
        raise ModelError(f"a NumPy type {code!r}")
    return _NumberType(code)


def _number(kind: Any, packed: Any) -> int | float | bool | complex:
    """Read a NumPy scalar as a Python number."""
    import numpy as np

    _expect("numpy scalar", (kind, _NumberType), (packed, bytes))
    (value,) = np.frombuffer(packed, kind.code)
    number: int | float | bool | complex = value.item()
    return number


def _namespace(*arguments: object) -> SimpleNamespace:
    """Stand in for an object that holds settings, and for a loss, which is never computed."""
    if arguments:
        raise ModelError("a namespace is made with arguments")
    return SimpleNamespace()


def _interpolation(name: Any) -> str:
    """A way to resize is a word to us."""
    _expect("InterpolationMode", (name, str))
    return str(name)


CALLS: Mapping[tuple[str, str], Callable[..., Any]] = MappingProxyType(
    {
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
        ("torch", "Size"): _size,
        ("torch", "device"): _device,
        ("collections", "OrderedDict"): _ordered_dict,
        ("builtins", "set"): _set,
        ("builtins", "frozenset"): _frozenset,
        ("builtins", "slice"): _slice,
        ("_codecs", "encode"): _encode,
        ("pathlib", "Path"): _path,
        ("pathlib", "PosixPath"): _path,
        ("pathlib", "PurePosixPath"): _path,
        ("pathlib", "WindowsPath"): _path,
        ("pathlib", "PureWindowsPath"): _path,
        ("pathlib._local", "PosixPath"): _path,
        ("pathlib._local", "WindowsPath"): _path,
        ("datetime", "datetime"): _datetime,
        ("torchvision.transforms.functional", "InterpolationMode"): _interpolation,
        ("numpy", "dtype"): _number_type,
        ("numpy._core.multiarray", "scalar"): _number,
        ("numpy.core.multiarray", "scalar"): _number,
    }
)
"""What a checkpoint may call, and the stand-in that is called instead.

`copyreg._reconstructor` is missing on purpose: it runs the constructor of any class it is handed.
"""

_NAMESPACES = {
    ("argparse", "Namespace"),
    ("types", "SimpleNamespace"),
    ("ultralytics.utils", "IterableSimpleNamespace"),
    ("ultralytics.yolo.utils", "IterableSimpleNamespace"),
}
_TRANSFORMS = {
    ("torchvision.transforms.transforms", name)
    for name in ("Compose", "Resize", "CenterCrop", "ToTensor", "Normalize")
} | {("ultralytics.data.augment", name) for name in ("CenterCrop", "ToTensor")}
_LOSSES = ("ultralytics.utils.loss", "ultralytics.utils.tal", "ultralytics.yolo.utils.loss")


def stand_in(module: str, name: str) -> Callable[..., Any] | None:
    """Return what is called instead of `module.name`, or None when a file may not call it."""
    if (module, name) in _NAMESPACES or module in _LOSSES:
        return _namespace
    if (module, name) in _TRANSFORMS:
        return functools.partial(Transform, f"{module}.{name}")
    return CALLS.get((module, name))


def restore_number_type(target: object, state: object) -> bool:
    """Give a number type its state; return False when the target is something else."""
    if type(target) is not _NumberType:
        return False
    target.restore(state)
    return True
