"""A pickle reader that builds networks and nothing else.

A `.pt` checkpoint is a pickle, and a pickle is a program. `torch.load(weights_only=True)` refuses
the classes that YOLO checkpoints are made of, and plain `torch.load` runs whatever the file says.
This reader stands between.

Allowing whole packages would not do: Ultralytics' model classes evaluate strings of their
configuration when constructed, so even an allowed class must never be called with arguments from
the file. Nor is it enough to watch the opcode that calls: a pickle can hang a class onto an object
as its `__setstate__`, `__new__` or `append`, and have another opcode call that. So

- a name in the file becomes an inert `Name`, never the class or function itself: whatever the file
  does with it other than instantiate or call it by the book, there is nothing to run;
- a class is instantiated without its constructor, and only network modules are;
- a call goes to a stand-in of ours (`brimful.models.rebuild`);
- every opcode that would look a method up on an object checks the object's exact type first.

That takes the pure-Python unpickler, whose opcodes can be replaced.
"""

from __future__ import annotations

import functools
import importlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import IO, Any, ClassVar

from brimful.errors import ModelError
from brimful.models.rebuild import Transform, restore_number_type, stand_in

_MODULE_ROOTS = ("torch.nn.modules", "ultralytics.nn.modules", "ultralytics.nn.tasks")
"""Where network modules may come from."""

FOREIGN_ROOTS = ("models", "utils", "yolov5", "yolov6", "yolov7", "yolox", "nanodet")
"""Packages of repositories whose checkpoints cannot be read without their code."""


class Name:
    """What the file calls a class or a function. It can do nothing."""

    __slots__ = ("label",)

    def __init__(self, module: str, name: str) -> None:
        """Remember the name."""
        self.label = f"{module}.{name}"

    def __repr__(self) -> str:
        """Show the name."""
        return self.label


class RestrictedUnpickler(pickle._Unpickler):
    """An Unpickler for YOLO checkpoints; `torch.load` takes it as its pickle module's."""

    stack: list[Any]
    append: Callable[[Any], None]

    records: ClassVar[Mapping[str, int]] = {}
    """Bytes of each record of the checkpoint, by its name."""

    def __init__(self, file: IO[bytes], *, encoding: str = "ASCII") -> None:
        """Read from a file."""
        super().__init__(file, encoding=encoding)
        # By identity: a Name's meaning is kept out of the reach of the file.
        self._classes: dict[int, type] = {}
        self._calls: dict[int, Callable[..., Any]] = {}
        self._names: list[Name] = []  # keeps the identities above from being used again

    def find_class(self, module: str, name: str) -> Any:
        """Return a Name for what checkpoints are made of, or refuse it."""
        if module == "__builtin__":
            module = "builtins"
        call = stand_in(module, name)
        cls = None if call is not None else _network_module(module, name)
        if call is None and cls is None:
            if (value := _torch_value(module, name)) is not None:
                return value
            if module.split(".")[0] in FOREIGN_ROOTS:
                raise foreign_repository(f"{module}.{name}")
            raise _refused(f"{module}.{name}")
        named = Name(module, name)
        self._names.append(named)
        if call is not None:
            self._calls[id(named)] = call
        if cls is not None:
            self._classes[id(named)] = cls
        return named

    def get_extension(self, code: int) -> None:
        """Refuse the opcodes EXT: names from this process's own registry."""
        raise _refused(f"extension {code}")

    def _reduce(self) -> None:
        """REDUCE: call the stand-in of a function."""
        arguments = self.stack.pop()
        function = self.stack[-1]
        call = self._calls.get(id(function))
        if call is None or type(arguments) is not tuple:
            raise _refused(f"{_label(function)} (called with arguments from the file)")
        self.stack[-1] = call(*arguments)

    def _new(self) -> None:
        """NEWOBJ: make an instance without its constructor."""
        arguments = self.stack.pop()
        named = self.stack.pop()
        cls = self._classes.get(id(named))
        if arguments != ():
            raise _refused(f"{_label(named)} (made with arguments from the file)")
        if cls is not None:
            self.append(object.__new__(cls))
            return
        call = self._calls.get(id(named))
        if call is None:
            raise _refused(f"{_label(named)} (instantiated)")
        self.append(call())

    def _build(self) -> None:
        """BUILD: give an object its attributes, by a method of its type only."""
        import torch

        state = self.stack.pop()
        target = self.stack[-1]
        if restore_number_type(target, state):
            return
        if type(state) is not dict or not all(type(key) is str for key in state):
            raise _refused(f"a state of a {_label(target)} that is no mapping of attributes")
        if special := [key for key in state if key.startswith("__")]:
            raise _refused(f"an attribute {special[0]} on a {_label(target)}")
        if isinstance(target, torch.nn.Module):
            type(target).__setstate__(target, state)  # type: ignore[no-untyped-call]
        elif type(target) in (SimpleNamespace, OrderedDict, Transform):
            target.__dict__.update(state)
        else:
            raise _refused(f"attributes on a {_label(target)}")

    def _append(self) -> None:
        value = self.stack.pop()
        _exactly(self.stack[-1], list)
        self.stack[-1].append(value)

    def _appends(self) -> None:
        items = self._marked()
        _exactly(self.stack[-1], list)
        self.stack[-1].extend(items)

    def _add_items(self) -> None:
        items = self._marked()
        _exactly(self.stack[-1], set)
        self.stack[-1].update(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _exactly(self.stack[-1], dict, OrderedDict)
        self.stack[-1][key] = value

    def _set_items(self) -> None:
        items = self._marked()
        _exactly(self.stack[-1], dict, OrderedDict)
        for i in range(0, len(items) - 1, 2):
            self.stack[-1][items[i]] = items[i + 1]

    def _persistent(self) -> None:
        """BINPERSID: a tensor's storage, which torch brings."""
        from torch.serialization import StorageType

        key = self.stack.pop()
        types = tuple(map(type, key)) if type(key) is tuple else ()
        if types != (str, StorageType, str, str, int) or key[0] != "storage":
            raise _refused("something that is no tensor storage by a persistent id")
        _, kind, name, _, numbers = key
        held = self.records.get(f"data/{name}", 0)
        if not 0 <= numbers * kind.dtype.itemsize <= held:
            # torch 2.6 takes the claim for granted, and reads on behind the record.
            raise ModelError(
                f"the checkpoint is damaged: its storage {name!r:.40} has {numbers} numbers of "
                f"{kind.dtype}, and its record has {held} bytes. Copy or download it again"
            )
        self.append(self.persistent_load(key))

    def _forbidden(self) -> None:
        """Opcodes that call, and that no checkpoint has."""
        raise _refused("an object by an opcode of another protocol (INST, OBJ, NEWOBJ_EX, PERSID)")

    def _instantiate(self, klass: Any, args: Any) -> None:
        raise _refused(f"{_label(klass)} (called with arguments from the file)")

    def _marked(self) -> list[Any]:
        items: list[Any] = self.pop_mark()  # type: ignore[attr-defined]
        return items

    _opcodes: ClassVar[dict[bytes, Callable[[Any], None]]] = {
        pickle.REDUCE: _reduce,
        pickle.NEWOBJ: _new,
        pickle.BUILD: _build,
        pickle.APPEND: _append,
        pickle.APPENDS: _appends,
        pickle.ADDITEMS: _add_items,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: _set_items,
        pickle.BINPERSID: _persistent,
        pickle.PERSID: _forbidden,
        pickle.NEWOBJ_EX: _forbidden,
    }
    dispatch = pickle._Unpickler.dispatch | {code[0]: run for code, run in _opcodes.items()}


class RestrictedPickle:
    """The part of the `pickle` module's interface that `torch.load` uses, for one checkpoint."""

    def __init__(self, records: Mapping[str, int]) -> None:
        """Make the unpickler of a checkpoint.

        Args:
            records: Bytes of each of its records, by name.
        """
        self.__name__ = "RestrictedPickle"  # torch asks a module's name
        self.Unpickler = type("Unpickler", (RestrictedUnpickler,), {"records": records})

    def load(self, file: IO[bytes], *, encoding: str = "ASCII") -> Any:
        """Read one pickle from a file."""
        return self.Unpickler(file, encoding=encoding).load()


@functools.cache
def _network_module(module: str, name: str) -> type | None:
    """Return a class of network layers, or None when the name is not one."""
    if not any(module == root or module.startswith(root + ".") for root in _MODULE_ROOTS):
        return None
    import torch

    try:
        found = vars(importlib.import_module(module)).get(name)  # a dotted name is no key
    except ImportError:
        return None
    if (
        isinstance(found, type)
        and issubclass(found, torch.nn.Module)
        and found.__new__ is object.__new__
        and found.__module__.startswith(_MODULE_ROOTS)
    ):
        return found
    return None


def _torch_value(module: str, name: str) -> Any:
    """Return a dtype, layout or memory format of torch: values, which nothing can call."""
    if module != "torch":
        return None
    import torch

    value = vars(torch).get(name)
    kinds = (torch.dtype, torch.layout, torch.memory_format)
    return value if isinstance(value, kinds) else None


def _exactly(target: object, *types: type) -> None:
    if type(target) not in types:
        raise _refused(f"items in a {_label(target)}")


def _label(value: object) -> str:
    return value.label if type(value) is Name else type(value).__qualname__


def foreign_repository(what: str) -> ModelError:
    """Return the error for a checkpoint whose code lives in another project."""
    return ModelError(
        f"the checkpoint is made of {what}, which is code of another repository (such as YOLOv5): "
        "expected a checkpoint that Ultralytics' package wrote. Export it to ONNX with the "
        "export.py of its repository and give that file"
    )


def _refused(what: str) -> ModelError:
    return ModelError(
        f"the checkpoint asks for {what}, which no YOLO checkpoint needs; reading it "
        "could run code from the file. If you trust whoever made it, add --trust-model"
    )
