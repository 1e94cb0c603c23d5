"""The CUDA provider's options and errors, as far as they can be had without a GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from brimful.errors import ModelError, RuntimeFailedError, UsageError
from brimful.runtimes.cuda.onnx import provider
from brimful.runtimes.cuda.onnx.provider import (
    CUDA,
    NO_GRAPH,
    ProviderTechniques,
    check_provider,
    cuda_options,
    loading_failed,
    open_session,
    running_failed,
)
from brimful.runtimes.runtime import OutOfMemoryError

# What the libraries have said: the arena's limit, CUDA, and cuBLAS.
NO_MEMORY = (
    "Error in execution: Non-zero status code returned while running Sigmoid node. Name:'' Status "
    "Message: bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, "
    "onnxruntime::Stream*) Failed to allocate memory for requested buffer of size 6144",
    "[ONNXRuntimeError] : 1 : FAIL : Exception during initialization: bfc_arena.cc:360 void* "
    "onnxruntime::BFCArena::AllocateRawInternal(size_t, bool, onnxruntime::Stream*) Available "
    "memory of 58624 is smaller than requested bytes of 147456",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; file=cuda_allocator.cc ; line=47",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0",
)
OTHER = "CUDA failure 700: an illegal memory access was encountered ; GPU=0"


@pytest.mark.parametrize("said", NO_MEMORY)
def test_out_of_memory_is_told_apart(said: str) -> None:
    assert isinstance(running_failed(RuntimeError(said)), OutOfMemoryError)
    assert isinstance(loading_failed(RuntimeError(said), Path("m.onnx")), OutOfMemoryError)


def test_other_errors_are_not_out_of_memory() -> None:
    failed = running_failed(RuntimeError(OTHER))
    assert type(failed) is RuntimeFailedError
    assert "illegal memory access" in str(failed)
    refused = loading_failed(RuntimeError("No Op registered for Foo"), Path("m.onnx"))
    assert type(refused) is ModelError
    assert "m.onnx" in str(refused)
    assert "Foo" in str(refused)


def test_a_session_that_captures_no_graph_is_told_apart() -> None:
    said = (
        "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as "
        "requested by the user  as all compute graph nodes have not been partitioned to the "
        "CUDAExecutionProvider"
    )
    assert NO_GRAPH.search(said)
    assert not NO_GRAPH.search(OTHER)


def test_options() -> None:
    options = cuda_options(3, 0x7F00, "fp32", None, ProviderTechniques())
    assert options["device_id"] == "3"
    assert options["user_compute_stream"] == str(0x7F00)
    assert options["use_tf32"] == "0"
    assert "gpu_mem_limit" not in options
    assert "enable_cuda_graph" not in options
    fast = ProviderTechniques(static=True, nhwc=True, graphs=True)
    options = cuda_options(0, 1, "fp16", 2**30, fast)
    assert options["gpu_mem_limit"] == str(2**30)
    assert options["enable_cuda_graph"] == options["prefer_nhwc"] == "1"
    assert all(isinstance(value, str) for value in options.values())
    with pytest.raises(ValueError, match="nhwc needs static"):
        ProviderTechniques(nhwc=True)


def test_an_onnxruntime_without_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match="pip uninstall onnxruntime") as refusal:
        check_provider("cuda:1")
    assert "'cuda:1'" in str(refusal.value)
    assert "providers CPUExecutionProvider" in str(refusal.value)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA])
    check_provider("cuda:1")


def test_a_provider_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """onnxruntime would go on with the CPU, and say so on standard output."""

    def session(*arguments: Any, **options: Any) -> Any:
        assert options["providers"][0][0] == CUDA
        assert not options["enable_fallback"]
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])

    def preload() -> None:
        print("Failed to load libcurand.so.10: no such file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload, raising=False)
    stream = SimpleNamespace(cuda_stream=1)
    with pytest.raises(UsageError, match="does not load") as refusal:
        open_session(Path("m.onnx"), torch.device("cuda:0"), stream, precision="fp32")
    assert "libcurand.so.10" in str(refusal.value)
    assert "onnxruntime-gpu[cuda,cudnn]" in str(refusal.value)
    assert capsys.readouterr().out == ""  # standard output may be where the detections go


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"m\.onnx cannot be loaded"):
        open_session(tmp_path / "m.onnx", torch.device("cpu"), None, precision="fp32")
    assert provider.CPU in onnxruntime.get_available_providers()
