"""What a network must not carry: names of code, hooks, and attributes in the place of methods.

The unpickler leaves nothing that could be run, so this is the second lock. It also turns a
mysterious failure in the first forward into a message that names the layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from brimful.errors import ModelError
from brimful.models.rebuild import Transform
from brimful.models.unpickler import Name


def audit_checkpoint(network: Any) -> None:
    """Refuse a network that carries code, or the name of code, where it should carry numbers.

    Args:
        network: A torch.nn.Module as the restricted unpickler read it.

    Raises:
        ModelError: Naming the layer and the attribute.
    """
    import torch

    seen: set[int] = set()
    pending: list[tuple[str, Any]] = [("model", network)]
    while pending:
        path, value = pending.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | torch.Tensor):
            continue
        seen.add(id(value))
        if isinstance(value, torch.nn.Module):
            for attribute in vars(value):
                _check_attribute(path, value, attribute)
        elif isinstance(value, Name) or callable(value):
            raise _refused(path, repr(value))
        pending.extend(_parts(path, value, torch))


def _check_attribute(path: str, module: Any, attribute: str) -> None:
    value = vars(module)[attribute]
    if "_hooks" in attribute and value:
        raise _refused(f"{path}.{attribute}", "a hook")
    # Ultralytics hangs the text `type` over a method of that name: harmless, it cannot be called.
    if callable(value) and callable(getattr(type(module), attribute, None)):
        raise _refused(f"{path}.{attribute}", f"a {type(value).__name__} in place of a method")


def _parts(path: str, value: Any, torch: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a value is made of, with where it is."""
    if isinstance(value, torch.nn.Module | SimpleNamespace | Transform):
        for name, part in vars(value).items():
            if name in ("_modules", "_parameters", "_buffers") and isinstance(part, dict):
                for child, item in part.items():
                    yield f"{path}.{child}", item
            else:
                yield f"{path}.{name}", part
    elif isinstance(value, dict):
        for key, part in value.items():
            yield f"{path}[...]", key
            yield f"{path}[{key!r:.40}]", part
    elif isinstance(value, list | tuple | set | frozenset):
        for part in value:
            yield f"{path}[...]", part


def _refused(path: str, what: str) -> ModelError:
    return ModelError(
        f"the checkpoint holds {what} at {path}, where no YOLO checkpoint has code. "
        "If you trust whoever made it, add --trust-model"
    )
