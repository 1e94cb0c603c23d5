"""CUDA C++ compiled where it runs: NVIDIA's compiler needs no GPU."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from brimful.cuda import driver, module
from brimful.cuda.driver import load_library
from brimful.cuda.module import compiled
from brimful.errors import RuntimeFailedError
from brimful.vision.cuda.jpeg import SOURCES

ELF = b"\x7fELF"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Compile anew, and only where the compiler is there: CPU builds of PyTorch have none."""
    try:
        load_library("NVIDIA's run-time compiler", tuple(module._compilers()))
    except RuntimeFailedError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("threads", [256, 512])
@pytest.mark.parametrize("architecture", ["sm_75", "sm_90", "sm_120"])
def test_the_jpeg_kernels_compile(architecture: str, threads: int) -> None:
    image = compiled("jpeg", SOURCES, architecture, [f"THREADS={threads}"])
    assert image.startswith(ELF)
    for kernel in (b"read_scans", b"transform_blocks", b"place_images"):
        assert kernel in image


def test_the_oldest_compiler_takes_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch comes with that of its CUDA: where it refuses the source, the CPU decodes."""
    spec = importlib.util.find_spec("nvidia")
    places = (spec.submodule_search_locations if spec else None) or ()
    libraries = "cuda_nvrtc/lib/libnvrtc*.so.12*"
    found = [file for place in places for file in Path(place).glob(libraries)]
    if not found:
        pytest.skip("nvidia-cuda-nvrtc-cu12 is not installed")
    for builtins in found:  # the compiler asks for them by name
        ctypes.CDLL(str(builtins))
    compiler = next(file for file in found if file.name == "libnvrtc.so.12")
    monkeypatch.setattr(driver, "_loaded", {})
    monkeypatch.setattr(module, "_compilers", lambda: [str(compiler)])
    assert compiled("jpeg", SOURCES, "sm_90").startswith(ELF)
    version = [ctypes.c_int(), ctypes.c_int()]
    ctypes.CDLL(str(compiler)).nvrtcVersion(*map(ctypes.byref, version))
    assert [part.value for part in version] == [12, 4]


def test_the_result_is_kept_per_source_and_options(tmp_path: Path, cache: Path) -> None:
    first, second = tmp_path / "a.cu", tmp_path / "b.cu"
    first.write_text("#define VALUE 1\n")
    second.write_text('extern "C" __global__ void run(int* out) { *out = VALUE + MORE; }\n')
    one = compiled("test", [first, second], "sm_90", ["MORE=1"])
    assert one.startswith(ELF)
    assert compiled("test", [first, second], "sm_90", ["MORE=1"]) == one
    assert len(list(cache.glob("cuda-test-*"))) == 1
    compiled("test", [first, second], "sm_90", ["MORE=2"])
    first.write_text("#define VALUE 2\n")
    compiled("test", [first, second], "sm_90", ["MORE=2"])
    assert len(list(cache.glob("cuda-test-*"))) == 3


def test_what_does_not_compile_says_where(tmp_path: Path, cache: Path) -> None:
    good, bad = tmp_path / "good.cu", tmp_path / "bad.cu"
    good.write_text("\n\n")
    bad.write_text("\nint wrong(\n")
    with pytest.raises(RuntimeFailedError, match=r"bad\.cu\(\d\)"):
        compiled("test", [good, bad], "sm_90")
    assert not list(cache.glob("cuda-test-*")), "nothing is kept of it"


def test_a_library_that_is_missing_is_named() -> None:
    with pytest.raises(RuntimeFailedError, match=r"the thing is not installed.*libnone\.so"):
        load_library("the thing", ("libnone.so",))


@pytest.mark.parametrize(("carveout", "asked"), [(None, []), (50, [(9, 50)])])
def test_a_kernel_leaves_as_much_cache_as_it_is_told(
    carveout: int | None, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    refused = 0
    driver = SimpleNamespace(
        cuModuleGetFunction=lambda *arguments: 0,
        cuFuncSetAttribute=lambda function, *what: said.append(what) or refused,
        cuLaunchKernel=None,
    )
    monkeypatch.setattr(module, "load_driver", lambda **options: driver)
    loaded = module.CudaModule.__new__(module.CudaModule)
    loaded._driver, loaded._module = driver, None
    loaded.kernel("read_scans", carveout=carveout)
    assert said == asked
    refused = 1
    if carveout is not None:
        with pytest.raises(RuntimeFailedError, match="cuFuncSetAttribute of read_scans"):
            loaded.kernel("read_scans", carveout=carveout)
