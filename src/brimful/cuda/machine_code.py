"""MachineCode: what Triton made of a kernel for one launch, kept and launched without Triton.

Triton has a cache, too, but to look a kernel up it hashes its own library, reads every stage of the
compilation, and takes five milliseconds of the interpreter. Here it is a file and what a launch
must know of it, and a launch is one call of the driver.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import inspect
import json
import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brimful.cuda.driver import check, load_driver
from brimful.cuda.launch import FUSION, Launch
from brimful.errors import RuntimeFailedError
from brimful.models.artifact import artifact, cache_root, kept_artifact

_WARP = 32
_SHARED_BYTES = 48 * 2**10
"""Of shared memory, that a kernel may have without asking for more."""

_MAX_DYNAMIC_SHARED_SIZE = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

_ENTRY = re.compile(r"\.entry\s+\w+\s*\((.*?)\)", re.DOTALL)
_PARAMETER = re.compile(r"\.param\s+\.([a-z]\d+)")
_TYPES: dict[str, Any] = {
    "u64": ctypes.c_uint64,
    "b64": ctypes.c_uint64,
    "s64": ctypes.c_int64,
    "u32": ctypes.c_int32,  # Triton writes its signed integers so
    "b32": ctypes.c_int32,
    "s32": ctypes.c_int32,
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
}


class _SpecialKernelError(RuntimeFailedError):
    """A kernel takes more than a plain launch."""


@dataclass(frozen=True, slots=True)
class MachineCode:
    """A kernel as it was compiled for one variant of its launches.

    Attributes:
        name: Of the entry point.
        cubin: The code, for one architecture.
        shared: Bytes of shared memory.
        threads: Of a block.
        arguments: Positions of the launch's arguments that it takes, in order; the others, such as
            strides of 1, are in the code.
        parameters: Their PTX types, and behind them those of the memory that Triton may want for
            itself, which this code does not use.
    """

    name: str
    cubin: bytes
    shared: int
    threads: int
    arguments: tuple[int, ...]
    parameters: tuple[str, ...]

    @staticmethod
    def of(compiled: Any, launch: Launch) -> MachineCode:
        """Take what Triton compiled for a launch.

        Raises:
            RuntimeFailedError: It wants to be launched in a way that only Triton knows.
        """
        metadata = compiled.metadata
        entry = _ENTRY.search(compiled.asm["ptx"])
        parameters = tuple(_PARAMETER.findall(entry[1])) if entry else ()
        signature = compiled.src.signature
        names = launch.kernel.arg_names[: len(launch.arguments)]
        live = tuple(i for i, name in enumerate(names) if signature[name] != "constexpr")
        own = parameters[len(live) :]
        plain = (
            entry is not None
            and len(parameters) >= len(live)
            and set(parameters) <= _TYPES.keys()
            and set(own) <= {"u64", "b64"}
            and metadata.num_ctas == 1
            and metadata.warp_size == _WARP
            and not any(getattr(metadata, name, False) for name in _SPECIAL)
        )
        if not plain:
            raise _SpecialKernelError(f"{metadata.name} cannot be launched without Triton")
        return MachineCode(
            name=metadata.name,
            cubin=compiled.asm["cubin"],
            shared=metadata.shared,
            threads=metadata.num_warps * _WARP,
            arguments=live,
            parameters=parameters,
        )

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        (folder / "cubin").write_bytes(self.cubin)
        facts = {
            "name": self.name,
            "shared": self.shared,
            "threads": self.threads,
            "arguments": self.arguments,
            "parameters": self.parameters,
        }
        (folder / "launch.json").write_text(json.dumps(facts))

    @staticmethod
    def read(folder: Path) -> MachineCode:
        """Read it from a folder."""
        facts = json.loads((folder / "launch.json").read_text())
        for key in ("arguments", "parameters"):
            facts[key] = tuple(facts[key])
        return MachineCode(cubin=(folder / "cubin").read_bytes(), **facts)


Bound = Callable[[ctypes.c_void_p], None]
"""Queues a launch on a stream of this handle."""

_SPECIAL = (
    "launch_pdl",
    "launch_cooperative_grid",
    "global_scratch_size",
    "profile_scratch_size",
    "tmem_size",
    "tensordesc_meta",
)
"""What Triton's metadata says of a kernel that takes more than a plain launch."""


class Function:
    """Machine code on a device."""

    def __init__(self, code: MachineCode) -> None:
        """Load it into the current context, where it stays, as what Triton loads does.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        driver = load_driver()
        module, self._handle = ctypes.c_void_p(), ctypes.c_void_p()
        loaded = driver.cuModuleLoadData(ctypes.byref(module), code.cubin)
        check(f"loading {code.name}", loaded)
        found = driver.cuModuleGetFunction(ctypes.byref(self._handle), module, code.name.encode())
        check(f"finding {code.name}", found)
        if code.shared > _SHARED_BYTES:
            asked = driver.cuFuncSetAttribute(self._handle, _MAX_DYNAMIC_SHARED_SIZE, code.shared)
            check(f"shared memory for {code.name}", asked)
        self._code = code
        self._launch = load_driver(queueing=True).cuLaunchKernel

    def bind(self, launch: Launch) -> Bound:
        """Return a launch of it."""
        code = self._code
        given = [address(launch.arguments[i]) for i in code.arguments]
        given += [0] * (len(code.parameters) - len(given))
        values = [_TYPES[kind](value) for kind, value in zip(code.parameters, given, strict=True)]
        return BoundLaunch(self._launch, self._handle, code, launch.grid, values)


class TritonFunction:
    """A kernel that only Triton can launch."""

    def __init__(self, compiled: Any) -> None:
        """Take what Triton compiled."""
        self._compiled = compiled

    def bind(self, launch: Launch) -> Bound:
        """Return a launch of it."""
        names = launch.kernel.arg_names[len(launch.arguments) :]
        values = [address(value) for value in launch.arguments]
        values += [launch.constants[name] for name in names]
        grid = (*launch.grid, *(1 for _ in range(3 - len(launch.grid))))
        queue = self._compiled[grid]  # this loads it onto the device
        return lambda stream: queue(*values, stream=stream.value)


class BoundLaunch:
    """A launch whose arguments are where the driver reads them."""

    __slots__ = ("_arguments", "_launch", "_name", "_values")

    def __init__(
        self, launch: Any, handle: Any, code: MachineCode, grid: Sequence[int], values: list[Any]
    ) -> None:
        """Lay the arguments out."""
        self._launch, self._name = launch, code.name
        self._values = values  # the driver reads them at every launch
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        sizes = (*grid, *(1 for _ in range(3 - len(grid))), code.threads, 1, 1)
        before = (handle, *map(ctypes.c_uint, (*sizes, code.shared)))
        self._arguments = before, pointers

    def __call__(self, stream: ctypes.c_void_p) -> None:
        """Queue it.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        before, pointers = self._arguments
        status = self._launch(*before, stream, pointers, None)
        if status:
            check(f"the launch of {self._name}", status)


def variant(launch: Launch) -> Hashable:
    """Return what decides the machine code of a launch; other launches may share it.

    Triton looks at types, at divisibility by 16, at integers that are 1, and at the constants.
    """
    return (
        id(launch.kernel),
        tuple(launch.constants.items()),
        tuple(map(_kind, launch.arguments)),
    )


def machine_code(launch: Launch, architecture: str) -> MachineCode | None:
    """Compile a launch and keep the code in the artifact cache, or find it there.

    None: only Triton can launch it.

    Args:
        launch: Its kernel is a Triton function.
        architecture: Of the current device, such as `sm_90`.

    Raises:
        UsageError: The artifact cache cannot be used.
    """

    def build(folder: Path) -> None:
        MachineCode.of(launch.compile(), launch).save(folder)

    facts = _facts(launch, architecture)
    try:
        return MachineCode.read(artifact("kernel", facts, build, root=_root(), runs=True))
    except _SpecialKernelError:
        return None


def kept_code(launch: Launch, architecture: str) -> MachineCode | None:
    """Return the code of a launch if the artifact cache has it; see `machine_code`."""
    folder = kept_artifact("kernel", _facts(launch, architecture), root=_root(), runs=True)
    return None if folder is None else MachineCode.read(folder)


def _facts(launch: Launch, architecture: str) -> dict[str, object]:
    """Return what decides the machine code of a launch, whatever the process."""
    import triton  # the launch's kernel is of it

    function = launch.kernel.fn
    return {
        "kernel": f"{function.__module__}.{function.__qualname__}",
        "sources": _digest(Path(inspect.getfile(function)).parent),
        "triton": triton.__version__,
        "architecture": architecture,
        "constants": [*FUSION.items(), *launch.constants.items()],
        "arguments": [_kind(value) for value in launch.arguments],
    }


def address(value: Any) -> Any:
    """Return the address of a tensor, and any other argument as it is."""
    return value.data_ptr() if hasattr(value, "data_ptr") else value


def _kind(value: Any) -> Hashable:
    if hasattr(value, "data_ptr"):
        return str(value.dtype), value.data_ptr() % 16 == 0
    if isinstance(value, int) and not isinstance(value, bool):
        return "int", value == 1, value % 16 == 0, -(2**31) <= value < 2**31
    return type(value).__name__, value


def _root() -> Path:
    """Return the folder of kernels, of which there are many."""
    return cache_root() / "kernels"


@functools.cache
def _digest(folder: Path) -> str:
    """Return a digest of the sources of a folder: kernels call functions of their neighbours."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
