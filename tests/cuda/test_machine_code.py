"""What Triton compiles is kept and launched without it: on real code, compiled for sm_90."""

from __future__ import annotations

import ctypes
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from brimful.cuda import machine_code as module
from brimful.cuda.launch import Launch
from brimful.cuda.machine_code import Function, MachineCode, kept_code, machine_code

pytest.importorskip("triton")

CONSTANTS = {"CHANNELS": 64, "REACH": 2, "ROWS": 32, "COLUMNS": 64}


COMPILE = """
import pickle, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from brimful.runtimes.cuda.network.layout import _max_pool

numbers, constants, options = pickle.loads(sys.stdin.buffer.read())
signature, constexprs = {"x": "*fp16", "y": "*fp16"}, {}
for i, name in enumerate(_max_pool.arg_names[2:], start=2):
    value = constants[name] if name in constants else numbers[i - 2]
    signature[name] = "constexpr" if name in constants or value == 1 else "i32"
    if signature[name] == "constexpr":
        constexprs[i,] = value
source = ASTSource(_max_pool, signature, constexprs)
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
metadata = compiled.metadata._asdict()
metadata.pop("target")
asm = {name: compiled.asm[name] for name in ("ptx", "cubin")}
sys.stdout.buffer.write(pickle.dumps((metadata, asm, signature, _max_pool.arg_names)))
"""
"""Triton compiles for an architecture that is not here, in a process that does not interpret."""


@pytest.fixture(scope="module")
def compiled() -> Any:
    options = {"num_warps": 8, "enable_fp_fusion": True}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("TRITON_INTERPRET", None)
    made = subprocess.run(
        [sys.executable, "-c", COMPILE],
        input=pickle.dumps((STRIDES, CONSTANTS, options)),
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
    )
    metadata, asm, signature, names = pickle.loads(made.stdout)
    metadata = SimpleNamespace(**metadata)
    source = SimpleNamespace(signature=signature)
    return SimpleNamespace(metadata=metadata, asm=asm, src=source, arg_names=names)


def launch_of(compiled: Any, warmup: Any = None) -> Launch:
    """Return a launch of a kernel that Triton compiles to this."""
    from brimful.runtimes.cuda.network.layout import _max_pool

    kernel = SimpleNamespace(
        fn=_max_pool.fn,
        arg_names=compiled.arg_names,
        warmup=warmup or (lambda *arguments, **options: compiled),
    )
    x, y = (torch.zeros(64, dtype=torch.float16) for _ in range(2))
    return Launch(kernel, (5,), (x, y, *STRIDES), {**CONSTANTS, "num_warps": 8})


STRIDES = (4096, 64, 64, 262144, 4096, 64, 1, 4096, 64)


@pytest.fixture
def launch(compiled: Any) -> Launch:
    return launch_of(compiled)


def test_it_says_what_a_launch_must_know(launch: Launch) -> None:
    code = MachineCode.of(launch.compile(), launch)
    assert code.cubin.startswith(b"\x7fELF") and code.name == "_max_pool"
    assert code.threads == 256
    assert code.arguments == (0, 1, 2, 3, 4, 5, 6, 7, 9, 10), "a stride of 1 is in the code"
    pointers, numbers = ["u64"] * 2, ["u32"] * 8
    assert list(code.parameters[:10]) == pointers + numbers


def test_it_is_kept_and_compiled_once(
    compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path / "cache"))
    assert kept_code(launch_of(compiled), "sm_90") is None
    first = machine_code(launch_of(compiled), "sm_90")
    assert kept_code(launch_of(compiled), "sm_90") == first

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("it is compiled")

    kept = launch_of(compiled, refuse)
    assert machine_code(kept, "sm_90") == first is not None
    with pytest.raises(AssertionError, match="it is compiled"):
        machine_code(kept, "sm_100")


def test_what_only_triton_can_launch_is_left_to_it(
    compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path / "cache"))
    metadata = SimpleNamespace(**{**vars(compiled.metadata), "launch_cooperative_grid": True})
    special = SimpleNamespace(**{**vars(compiled), "metadata": metadata})
    assert machine_code(launch_of(special), "sm_90") is None
    assert not list(tmp_path.glob("cache/kernels/kernel-*"))


class Driver:
    """Remembers the launches as the driver reads them: by address, when it is called."""

    def __init__(self) -> None:
        self.launches: list[Any] = []
        self.asked: list[Any] = []

    def cuModuleLoadData(self, pointer: Any, image: bytes) -> int:
        return 0

    def cuModuleGetFunction(self, pointer: Any, module: Any, name: bytes) -> int:
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))[0] = 77
        return 0

    def cuFuncSetAttribute(self, function: Any, attribute: int, value: int) -> int:
        self.asked.append((attribute, value))
        return 0

    def cuLaunchKernel(self, function: Any, *rest: Any) -> int:
        *sizes, stream, pointers, extra = rest
        raw = [ctypes.string_at(pointer, 8) for pointer in pointers]
        self.launches.append(
            (function.value, [size.value for size in sizes], stream.value, raw, extra)
        )
        return 0


def test_a_launch_gives_the_driver_what_the_kernel_takes(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver()
    monkeypatch.setattr(module, "load_driver", lambda **options: driver)
    code = MachineCode.of(launch.compile(), launch)
    large = MachineCode(
        name=code.name,
        cubin=code.cubin,
        shared=100_000,
        threads=code.threads,
        arguments=code.arguments,
        parameters=code.parameters,
    )
    Function(code).bind(launch)(ctypes.c_void_p(42))
    Function(large)
    ((function, sizes, stream, raw, extra),) = driver.launches
    assert (function, stream, extra) == (77, 42, None)
    assert sizes == [5, 1, 1, 256, 1, 1, code.shared]
    addresses = [struct.unpack("Q", value)[0] for value in raw[:2]]
    assert addresses == [tensor.data_ptr() for tensor in launch.arguments[:2]]
    numbers = [struct.unpack("i", value[:4])[0] for value in raw[2:10]]
    assert numbers == [*STRIDES[:6], *STRIDES[7:]]
    assert all(value == bytes(8) for value in raw[10:]), "memory that Triton may want for itself"
    assert driver.asked == [(8, 100_000)]


def test_a_driver_that_refuses_is_an_error(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    from brimful.errors import RuntimeFailedError

    driver = Driver()
    monkeypatch.setattr(module, "load_driver", lambda **options: driver)
    monkeypatch.setattr(driver, "cuLaunchKernel", lambda *arguments: 700)
    bound = Function(MachineCode.of(launch.compile(), launch)).bind(launch)
    with pytest.raises(RuntimeFailedError, match=r"_max_pool.*700"):
        bound(ctypes.c_void_p(0))
