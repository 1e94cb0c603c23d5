"""Launches that shall be compiled keep nothing of what they were made with."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from brimful.cuda.launch import Launch
from brimful.cuda.launcher import Launcher


class Kernel:
    """Remembers what it was compiled for, as Triton sees it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def warmup(self, *arguments: Any, grid: Any, **constants: Any) -> None:
        self.seen.append((*map(described, arguments), grid, constants))


def described(value: Any) -> Any:
    return (value.dtype, value.data_ptr() % 16) if hasattr(value, "data_ptr") else value


def test_it_is_compiled_for_the_same_types_and_alignments() -> None:
    aligned, shifted = torch.zeros(16, dtype=torch.float16), torch.zeros(16)[1:]
    assert (aligned.data_ptr() % 16, shifted.data_ptr() % 16) == (0, 4)
    kernel = Kernel()
    launch = Launch(kernel, (3,), (aligned, 7, shifted), {"SILU": True})
    launch.compile()
    launch.detached().compile()
    assert kernel.seen == [((torch.float16, 0), 7, (torch.float32, 4), (3,), {"SILU": True})] * 2


def test_tritons_own_idea_of_them_is_the_same() -> None:
    specialize = pytest.importorskip("triton._C.libtriton").native_specialize_impl
    from triton.backends.nvidia.compiler import CUDABackend

    for tensor in (torch.zeros(16, dtype=torch.bfloat16), torch.zeros(16)[1:]):
        (pointer,) = Launch(None, (1,), (tensor,), {}).detached().arguments
        expected, found = (
            specialize(CUDABackend, value, False, True, True) for value in (tensor, pointer)
        )
        assert found == expected and expected[0].startswith("*")


def test_activations_go_while_a_forward_is_collected() -> None:
    """A layer's output has been freed by the time that the layer after the next is collected."""
    launcher, kernel = Launcher(), Kernel()
    alive = []
    with launcher.compiling():
        for layer in range(5):
            output = torch.zeros(16)
            alive.append(weakref.ref(output))
            launcher(Launch(kernel, (1,), (output,), {"LAYER": layer}))
            del output
            gc.collect()
            assert [reference() for reference in alive] == [None] * (layer + 1)
    assert len(kernel.seen) == 5
