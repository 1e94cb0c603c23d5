"""A pickle reader that builds networks and nothing else.

A `.pt` checkpoint is a pickle, and a pickle is a program. `torch.load(weights_only=True)` refuses
the classes that YOLO checkpoints are made of, and plain `torch.load` runs whatever the file says.
This reader stands between: it knows which classes may be *instantiated without their constructor*
(network modules and plain containers) and which few functions may be *called* (tensor rebuilding).

Allowing whole packages would not do: Ultralytics' model classes evaluate strings of their
configuration when constructed, so even an allowed class must never be called with arguments from
the file. Hence the pure-Python unpickler: it can tell the two opcodes apart.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import IO, Any

from brimful.errors import ModelError

_CALLABLE = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_parameter_with_state"),
    ("torch", "Size"),
    ("torch", "device"),
    ("collections", "OrderedDict"),
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "dict"),
    ("builtins", "list"),
    ("builtins", "tuple"),
    ("builtins", "slice"),
    ("builtins", "complex"),
    ("builtins", "bytearray"),
    ("_codecs", "encode"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "Path"),
    ("pathlib", "PurePosixPath"),
    ("pathlib._local", "PosixPath"),
    ("datetime", "datetime"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy", "dtype"),
}
"""Functions and classes a checkpoint may call. None touches files, evaluates text, or calls on.

`copyreg._reconstructor` is missing on purpose: it runs the constructor of any class it is handed.
"""

_REPLACED = {
    # A checkpoint carries its training paths; they are only ever text to us.
    "pathlib": str,
    "pathlib._local": str,
}

_CONTAINERS = {
    ("torch.nn.parameter", "Parameter"),
    ("torch.nn.parameter", "Buffer"),
    ("builtins", "object"),
    ("ultralytics.utils", "IterableSimpleNamespace"),
    ("types", "SimpleNamespace"),
    ("argparse", "Namespace"),
}
"""Plain classes that may be instantiated without a constructor, besides network modules."""

_MODULE_ROOTS = (
    "torch.nn.modules.",
    "ultralytics.nn.modules.",
    "ultralytics.nn.tasks",
    "ultralytics.utils.loss",
    "ultralytics.utils.tal",
)
"""Where network modules may come from."""

_VALUES = {"torch"}
"""Modules whose dtypes, layouts, memory formats and storage classes may be named."""


class RestrictedUnpickler(pickle._Unpickler):
    """An Unpickler for YOLO checkpoints; `torch.load` takes it as its pickle module's."""

    dispatch = pickle._Unpickler.dispatch.copy()
    stack: list[Any]

    def find_class(self, module: str, name: str) -> Any:
        """Return a class or function that checkpoints are made of, or refuse it by name."""
        if module == "__builtin__":
            module = "builtins"
        if (module, name) in _CALLABLE:
            if module in _REPLACED:
                return _REPLACED[module]
            return super().find_class(module, name)
        if "." in name:  # a dotted name walks attributes, out of the module that was checked
            raise _refused(module, name)
        if (module, name) in _CONTAINERS:
            return super().find_class(module, name)
        if module.startswith(_MODULE_ROOTS):
            found = super().find_class(module, name)
            if _is_network_module(found):
                return found
        elif module in _VALUES or module == "torch.storage":
            found = super().find_class(module, name)
            if _is_torch_value(found):
                return found
        raise _refused(module, name)

    def load_reduce(self) -> None:
        """Call a function of the allowed few (opcode REDUCE)."""
        self._check_call(self.stack[-2])
        pickle._Unpickler.load_reduce(self)  # type: ignore[attr-defined]

    dispatch[pickle.REDUCE[0]] = load_reduce  # type: ignore[assignment]

    def _instantiate(self, klass: Any, args: Any) -> None:
        """Opcodes OBJ and INST call a class with arguments from the file."""
        self._check_call(klass)
        super()._instantiate(klass, args)  # type: ignore[misc]

    def _check_call(self, function: Callable[..., Any]) -> None:
        module = getattr(function, "__module__", "?")
        name = getattr(function, "__qualname__", repr(function))
        if function in _allowed_calls():
            return
        raise _refused(module, f"{name} (called with arguments from the file)")


@functools.cache
def _allowed_calls() -> tuple[Any, ...]:
    calls: list[Any] = [str]
    for module, name in _CALLABLE:
        if module in _REPLACED:
            continue
        try:
            calls.append(getattr(__import__(module, fromlist=[name]), name))
        except (ImportError, AttributeError):  # a name of another Python or library version
            continue
    return tuple(calls)


def _is_network_module(found: Any) -> bool:
    import torch

    return isinstance(found, type) and issubclass(found, torch.nn.Module)


def _is_torch_value(found: Any) -> bool:
    import torch

    if isinstance(found, torch.dtype | torch.layout | torch.memory_format):
        return True
    return isinstance(found, type) and (
        found.__name__.endswith("Storage") or found in (torch.Tensor, torch.nn.Parameter)
    )


def _refused(module: str, name: str) -> ModelError:
    return ModelError(
        f"the checkpoint asks for {module}.{name}, which no YOLO checkpoint needs; reading it "
        "could run code from the file. If you trust whoever made it, add --trust-model"
    )


class restricted_pickle:
    """The part of the `pickle` module's interface that `torch.load` uses."""

    Unpickler = RestrictedUnpickler

    @staticmethod
    def load(file: IO[bytes], *, encoding: str = "ASCII") -> Any:
        """Read one pickle from a file."""
        return RestrictedUnpickler(file, encoding=encoding).load()


def refuse_planted_callables(network: Any) -> None:
    """Refuse a network that carries functions or classes where it should carry numbers.

    The reader never calls what it should not, but a file could still store a class or a function as
    an attribute or a hook of a layer, to be called in the forward pass.

    Args:
        network: A torch.nn.Module as unpickled.

    Raises:
        ModelError: Naming the layer and the attribute.
    """
    import torch

    for path, module in network.named_modules():
        for attribute, value in vars(module).items():
            planted = _planted(value, torch)
            if planted is not None:
                raise ModelError(
                    f"the checkpoint's layer {path or 'model'!r} holds {planted!r} in its "
                    f"attribute {attribute!r}, where no YOLO checkpoint has code. If you trust "
                    "whoever made it, add --trust-model"
                )


def _planted(value: Any, torch: Any, depth: int = 0) -> object | None:
    if isinstance(value, torch.nn.Module | torch.Tensor | torch.dtype) or value is None:
        return None
    if isinstance(value, dict) and depth < 8:
        parts: Any = value.values()
    elif isinstance(value, list | tuple | set) and depth < 8:
        parts = value
    else:
        return value if callable(value) else None
    for part in parts:
        found = _planted(part, torch, depth + 1)
        if found is not None:
            return found
    return None
