"""Launches that shall be compiled keep nothing of what they were made with."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from brimful.cuda.launch import Launch
from brimful.cuda.launcher import Launcher
from brimful.cuda.machine_code import address, variant
from brimful.cuda.program import KernelTable


class Kernel:
    """Remembers what it was compiled for, as Triton sees it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def warmup(self, *arguments: Any, grid: Any, **constants: Any) -> None:
        self.seen.append((*map(described, arguments), grid, constants))


class Function:
    """Remembers what it was launched with."""

    def __init__(self, number: int) -> None:
        self.number = number

    def bind(self, launch: Launch) -> Any:
        bound = self.number, launch.grid, *map(address, launch.arguments)
        return lambda stream: LAUNCHED.append((*bound, stream.value))


class Table(KernelTable):
    """Compiles by counting."""

    def compile(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            number = len(self._functions) + 1
            self._functions.setdefault(variant(launch), Function(number))  # type: ignore[arg-type]


LAUNCHED: list[Any] = []


def described(value: Any) -> Any:
    return (value.dtype, value.data_ptr() % 16) if hasattr(value, "data_ptr") else value


def test_it_is_compiled_for_the_same_types_and_alignments() -> None:
    aligned, shifted = torch.zeros(16, dtype=torch.float16), torch.zeros(16)[1:]
    assert (aligned.data_ptr() % 16, shifted.data_ptr() % 16) == (0, 4)
    kernel = Kernel()
    launch = Launch(kernel, (3,), (aligned, 7, shifted), {"SILU": True})
    launch.compile()
    launch.detached().compile()
    constants = {"SILU": True, "enable_fp_fusion": True}
    assert kernel.seen == [((torch.float16, 0), 7, (torch.float32, 4), (3,), constants)] * 2


def test_tritons_own_idea_of_them_is_the_same() -> None:
    specialize = pytest.importorskip("triton._C.libtriton").native_specialize_impl
    from triton.backends.nvidia.compiler import CUDABackend

    for tensor in (torch.zeros(16, dtype=torch.bfloat16), torch.zeros(16)[1:]):
        (pointer,) = Launch(None, (1,), (tensor,), {}).detached().arguments
        expected, found = (
            specialize(CUDABackend, value, False, True, True) for value in (tensor, pointer)
        )
        assert found == expected and expected[0].startswith("*")


def test_activations_go_while_a_forward_is_recorded() -> None:
    """A layer's output has been freed by the time that the layer after the next is recorded."""
    launcher, kernel = Launcher(Table()), Kernel()
    alive = []

    def forward() -> str:
        for layer in range(5):
            output = torch.zeros(16)
            alive.append(weakref.ref(output))
            launcher(Launch(kernel, (1,), (output,), {"LAYER": layer}))
            del output
            gc.collect()
            assert [reference() for reference in alive] == [None] * (layer + 1)
        return "its result"

    program, result = launcher.record(forward)
    assert (len(program), result) == (5, "its result")


def test_a_program_launches_what_was_recorded_in_order() -> None:
    LAUNCHED.clear()
    launcher, kernel = Launcher(Table()), Kernel()
    tensors = [torch.zeros(16), torch.zeros(16), torch.zeros(17)[1:]]
    tensors.append(tensors[0])

    def forward() -> None:
        for number, tensor in enumerate(tensors):
            launcher(Launch(kernel, (number, 2), (tensor,), {"LAYER": 7, "num_warps": 4}))

    program, _ = launcher.record(forward)
    assert LAUNCHED == []
    program.run(stream=99)
    compiled = [1, 1, 2, 1]  # one kernel for the aligned ones, another for the one that is not
    expected = [
        (which, (number, 2), tensor.data_ptr(), 99)
        for number, (which, tensor) in enumerate(zip(compiled, tensors, strict=True))
    ]
    assert expected == LAUNCHED


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1,), (3,)),  # Triton makes a constant of 1
        ((16,), (17,)),
        ((2**31,), (2**31 - 16,)),
        ((torch.zeros(16),), (torch.zeros(16, dtype=torch.float16),)),
        ((True,), (1,)),
        ((0.5,), (0.25,)),
    ],
)
def test_launches_that_triton_compiles_apart_are_told_apart(one: Any, other: Any) -> None:
    assert variant(Launch(None, (1,), one, {})) != variant(Launch(None, (1,), other, {}))
    assert variant(Launch(None, (1,), one, {})) == variant(Launch(None, (9,), one, {}))
    assert variant(Launch(None, (1,), one, {"A": 1})) != variant(Launch(None, (1,), one, {"A": 2}))
