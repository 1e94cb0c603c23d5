"""CudaModule: CUDA C++ compiled where it runs, for what Triton cannot say.

NVIDIA's run-time compiler comes with PyTorch, so nothing has to be installed; compilation takes a
second or two, once a machine, and the artifact cache keeps the result. The library is bound
directly (docs.nvidia.com/cuda/nvrtc): half a dozen calls.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import torch

from brimful.cuda.captures import synchronize
from brimful.cuda.driver import check, load_driver, load_library
from brimful.errors import RuntimeFailedError
from brimful.models.artifact import artifact

_CARVEOUT = 9  # CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT


class CudaModule:
    """The kernels of a source, for one device."""

    def __init__(
        self, name: str, sources: Sequence[Path], device: Any, *, defines: Sequence[str] = ()
    ) -> None:
        """Compile, once a machine, and load.

        Args:
            name: What the artifact cache calls it.
            sources: Files of CUDA C++ without includes, which are one source in this order.
            device: CUDA device, the current one.
            defines: Macros, such as `THREADS=256`.

        Raises:
            RuntimeFailedError: The compiler or the driver is missing, or refuses the source.
            UsageError: The artifact cache cannot be written.
        """
        major, minor = torch.cuda.get_device_capability(device)
        image = compiled(name, sources, f"sm_{major}{minor}", defines)
        self._driver = load_driver()
        self._module = ctypes.c_void_p()
        synchronize(device)  # the driver wants the device's context on this thread
        check("cuModuleLoadData", self._driver.cuModuleLoadData(ctypes.byref(self._module), image))

    def kernel(self, name: str, *, carveout: int | None = None) -> Kernel:
        """Return one of the kernels.

        Args:
            name: What the source calls it.
            carveout: Per cent of a multiprocessor's memory that is shared memory while it runs,
                the rest is cache; None leaves it to the driver, which wants room for as many of
                its blocks as fit, and takes the cache from what runs beside it.

        Raises:
            RuntimeFailedError: There is none of this name, or the driver refuses.
        """
        function = ctypes.c_void_p()
        status = self._driver.cuModuleGetFunction(
            ctypes.byref(function), self._module, name.encode()
        )
        check(f"cuModuleGetFunction of {name}", status)
        if carveout is not None:
            status = self._driver.cuFuncSetAttribute(function, _CARVEOUT, carveout)
            check(f"cuFuncSetAttribute of {name}", status)
        return Kernel(load_driver(queueing=True).cuLaunchKernel, function, name)

    def close(self) -> None:
        """Free the kernels; none may be in flight."""
        module, self._module = self._module, ctypes.c_void_p()
        if module:
            self._driver.cuModuleUnload(module)


class Kernel:
    """A compiled kernel, all of whose arguments have 64 bits."""

    def __init__(self, launch: Any, function: ctypes.c_void_p, name: str) -> None:
        """Hold what launching takes."""
        self._launch = launch
        self._function = function
        self._name = name

    def __call__(self, grid: tuple[int, int], threads: int, *arguments: int) -> None:
        """Queue the kernel on the current stream of the current device.

        Args:
            grid: Blocks, (x, y).
            threads: Of a block.
            *arguments: Numbers, and addresses on the device or of pinned memory. What is there
                must stay until the kernel has run.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        values = (ctypes.c_uint64 * len(arguments))(*arguments)
        first = ctypes.addressof(values)
        pointers = (ctypes.c_void_p * len(arguments))(
            *(first + 8 * i for i in range(len(arguments)))
        )
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        sizes = (*grid, 1, threads, 1, 1)
        status = self._launch(self._function, *sizes, 0, stream, pointers, None)
        check(f"the launch of {self._name}", status)


def copy_in(target: int, source: int, size: int) -> None:
    """Queue a copy from pinned memory to the device, on the current stream of the current device.

    Args:
        target: Address on the device.
        source: Address in pinned memory, which must stay as it is until the copy is done.
        size: Bytes.

    Raises:
        RuntimeFailedError: The driver refuses.
    """
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    sizes = ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size)
    driver = load_driver(queueing=True)
    check("the copy of files to the device", driver.cuMemcpyHtoDAsync_v2(*sizes, stream))


def compiled(
    name: str, sources: Sequence[Path], architecture: str, defines: Sequence[str] = ()
) -> bytes:
    """Return a source compiled for an architecture such as `sm_90`.

    Args:
        name: What the artifact cache calls it.
        sources: Files of CUDA C++ without includes, which are one source in this order.
        architecture: Of the device.
        defines: Macros.

    Raises:
        RuntimeFailedError: The compiler is missing, or refuses the source.
        UsageError: The artifact cache cannot be written.
    """
    compiler = load_library("NVIDIA's run-time compiler", tuple(_compilers()))
    text = "".join(f'#line 1 "{path.name}"\n{path.read_text()}' for path in sources)
    # A fused multiply-add would round a source position differently than OpenCV does.
    options = [f"--gpu-architecture={architecture}", "--fmad=false"]
    options += [f"--define-macro={define}" for define in defines]
    version = [ctypes.c_int(), ctypes.c_int()]
    compiler.nvrtcVersion(*map(ctypes.byref, version))
    facts = {
        "source": text,
        "options": options,
        "compiler": [part.value for part in version],
    }

    def build(folder: Path) -> None:
        (folder / "cubin").write_bytes(_compile(compiler, text, name, options))

    return (artifact(f"cuda-{name}", facts, build, runs=True) / "cubin").read_bytes()


def _compile(compiler: Any, text: str, name: str, options: list[str]) -> bytes:
    program = ctypes.c_void_p()
    created = compiler.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), name.encode(), 0, None, None
    )
    check("nvrtcCreateProgram", created)
    try:
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if compiler.nvrtcCompileProgram(program, len(options), array):
            log = _take(compiler.nvrtcGetProgramLogSize, compiler.nvrtcGetProgramLog, program)
            said = log.rstrip(b"\0").decode(errors="replace").strip()
            raise RuntimeFailedError(f"{name} does not compile with {options}: {said}")
        return _take(compiler.nvrtcGetCUBINSize, compiler.nvrtcGetCUBIN, program)
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _take(size_of: Any, get: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    check("nvrtc", size_of(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    check("nvrtc", get(program, buffer))
    return buffer.raw


def _compilers() -> Iterator[str]:
    """Yield where the compiler may be, the one that PyTorch was built for first."""
    major = (torch.version.cuda or "13").partition(".")[0]
    spec = importlib.util.find_spec("nvidia")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(map(str, Path(location).glob(f"**/libnvrtc.so.{major}*")))
    yield f"libnvrtc.so.{major}"
    yield from sorted(map(str, Path("/usr/local/cuda/lib64").glob("libnvrtc.so*")))
    found = find_library("nvrtc")
    if found is not None:
        yield found
