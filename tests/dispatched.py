"""Which of PyTorch's operations would launch a kernel, were the tensors on a device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ALLOCATIONS = ("aten::empty", "aten::new_empty", "aten::empty_like", "aten::empty_strided")

HANDLES = ("aten::set_", "aten::detach_", "aten::lift_fresh")
"""They change what a tensor object refers to, and no value."""


class Dispatched(TorchDispatchMode):
    """Notes operations that do more than allocate, look at memory otherwise, or copy it as it is.

    Such copies are left to the device's copy engine: between tensors of one type and the same
    strides, without gaps.

    Attributes:
        computed: Names of the operations that would launch a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Any = (), named: Any = None
    ) -> Any:
        result = operation(*given, **(named or {}))
        name = operation._schema.name
        if name in ALLOCATIONS or name in HANDLES:
            return result
        if name == "aten::copy_":
            free = _is_copy(*given[:2])
        else:
            # A view; or what could have computed something, and had nothing to do.
            known = {_place(tensor) for tensor in _tensors(given)}
            free = not operation._schema.is_mutable and all(
                _place(tensor) in known for tensor in _tensors((result,))
            )
        if not free:
            self.computed.append(name)
        return result


def _is_copy(target: torch.Tensor, source: torch.Tensor) -> bool:
    dense = target.is_contiguous() or (
        target.ndim == 4 and target.is_contiguous(memory_format=torch.channels_last)
    )
    return dense and (target.dtype, target.shape, target.stride()) == (
        source.dtype,
        source.shape,
        source.stride(),
    )


def _place(tensor: torch.Tensor) -> tuple[int, torch.dtype]:
    return tensor.untyped_storage().data_ptr(), tensor.dtype


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _tensors(value)
