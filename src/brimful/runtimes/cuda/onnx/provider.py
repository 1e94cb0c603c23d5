"""onnxruntime's CUDA provider: a session on a stream of PyTorch's, and its errors told apart.

What onnxruntime itself would do when the provider does not load is to print a warning and run on
the CPU. Here that is an error which says what to do.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brimful.errors import BrimfulError, ModelError, RuntimeFailedError, UsageError
from brimful.runtimes.runtime import OutOfMemoryError

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"

OUT_OF_MEMORY = re.compile(
    r"out of memory|failed to allocate memory|smaller than requested bytes"
    r"|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)
"""How the arena, CUDA, cuBLAS and cuDNN say it."""

NO_GRAPH = re.compile(r"cannot use the (CUDA graph|graph capture) feature", re.IGNORECASE)
"""How a session refuses to capture graphs of a model."""

INSTALL = (
    "onnxruntime and onnxruntime-gpu are one Python module under two names, and the first hides "
    "the second: pip install 'brimful[onnxruntime-gpu]', pip uninstall onnxruntime, then "
    "pip install --force-reinstall --no-deps onnxruntime-gpu"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderTechniques:
    """What may make the provider faster, each with a switch, to measure what it is worth.

    Attributes:
        static: A session for each canvas and batch size, whose arithmetic on shapes is done when
            it is opened. It is off: each has its own weights and its own memory.
        nhwc: Convolutions in fp16 run with the channels last, as the tensor cores read them; only
            with `static`. Otherwise the arithmetic on shapes moves to the device, and the host
            waits dozens of times in a forward for a number.
        graphs: onnxruntime captures a CUDA graph for each canvas and batch size. It is off: the
            capture may forbid CUDA calls to other threads of the process meanwhile, and a batch
            that fills the device hides what its launches cost.
    """

    static: bool = False
    nhwc: bool = False
    graphs: bool = False

    def __post_init__(self) -> None:
        """Refuse what would make a forward wait."""
        if self.nhwc and not self.static:
            raise ValueError("nhwc needs static")


def check_provider(device: str) -> None:
    """Check that the installed onnxruntime was built with the CUDA provider.

    Args:
        device: What was asked for, for the message.

    Raises:
        UsageError: It was not.
    """
    import onnxruntime

    there = onnxruntime.get_available_providers()
    if CUDA not in there:
        raise UsageError(
            f"device {device!r} was asked for, but onnxruntime {onnxruntime.__version__} here has "
            f"the providers {', '.join(there)}, and CUDA needs {CUDA}. {INSTALL}; or use "
            "device=cpu, or runtime=torch with the .pt"
        )


def open_session(
    path: Path,
    device: Any,
    stream: Any,
    *,
    precision: str,
    limit: int | None = None,
    dimensions: Mapping[str, int] | None = None,
    techniques: ProviderTechniques | None = None,
) -> Any:
    """Open an ONNX file so that its forwards run on a stream.

    Args:
        path: The file.
        device: A torch device; `cpu` runs the same on the CPU provider, for tests.
        stream: A torch CUDA stream of the device; it must outlive the session. None on the CPU.
        precision: What the file computes in, `fp32` or `fp16`.
        limit: Bytes of device memory that the session may take, or None.
        dimensions: Values of dimensions that the file names and leaves open.
        techniques: What to turn on.

    Raises:
        ModelError: The file cannot be run.
        UsageError: The CUDA provider does not load.
        OutOfMemoryError: The weights do not fit.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # What runs on the CPU is arithmetic on shapes; threads would only spin.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # A plan of the memory takes one block of its own for each shape, besides what runs without one.
    options.enable_mem_pattern = False
    for name, value in (dimensions or {}).items():
        options.add_free_dimension_override_by_name(name, value)
    providers: list[Any] = [CPU]
    said = ""
    if device.type == "cuda":
        said = _preload(onnxruntime)
        chosen = techniques or ProviderTechniques()
        facts = cuda_options(device.index or 0, stream.cuda_stream, precision, limit, chosen)
        providers = [(CUDA, facts), CPU]
    try:
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=providers, enable_fallback=0
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise loading_failed(error, path) from error
    if device.type == "cuda" and session.get_providers()[0] != CUDA:
        raise not_loaded(onnxruntime.__version__, said)
    return session


def cuda_options(
    index: int, stream: int, precision: str, limit: int | None, techniques: ProviderTechniques
) -> dict[str, str]:
    """Return the provider's options.

    Args:
        index: Of the device.
        stream: Address of the CUDA stream.
        precision: `fp32` or `fp16`.
        limit: Bytes that the session's arena may take, or None.
        techniques: What to turn on.
    """
    options = {
        "device_id": str(index),
        # A session has one stream, so each lane has a session of its own.
        "user_compute_stream": str(stream),
        # The search runs every algorithm of every layer at every batch size: minutes at a start.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Double what is needed is not a budget.
        "arena_extend_strategy": "kSameAsRequested",
        # TF32 would round fp32 to ten bits of mantissa; who wants that asks for fp16.
        "use_tf32": "0",
    }
    if techniques.nhwc and precision == "fp16":
        options["prefer_nhwc"] = "1"
    if techniques.graphs:
        options["enable_cuda_graph"] = "1"
    if limit is not None:
        options["gpu_mem_limit"] = str(limit)
    return options


def loading_failed(error: Exception, path: Path) -> BrimfulError:
    """Return what an error while a session was opened means."""
    if OUT_OF_MEMORY.search(str(error)):
        return OutOfMemoryError(f"{path} does not fit the device's memory: {error}")
    return ModelError(f"{path} cannot be loaded by onnxruntime: {error}")


def running_failed(error: Exception) -> BrimfulError:
    """Return what an error of a forward means."""
    if OUT_OF_MEMORY.search(str(error)):
        return OutOfMemoryError(str(error))
    return RuntimeFailedError(f"onnxruntime failed: {error}")


def not_loaded(version: str, said: str) -> UsageError:
    """Return the error of a CUDA provider that is installed but does not load."""
    import torch

    reason = f" ({' '.join(said.split())})" if said.strip() else ""
    return UsageError(
        f"the CUDA provider of onnxruntime {version} is installed but does not load{reason}. It "
        "needs the CUDA major version it was built for, with cuBLAS, cuRAND and cuDNN 9; PyTorch "
        f"{torch.__version__} here brings CUDA {torch.version.cuda}. Install an onnxruntime-gpu "
        "for that version: pip install 'onnxruntime-gpu[cuda,cudnn]'; or use runtime=torch with "
        "the .pt"
    )


def _preload(onnxruntime: Any) -> str:
    """Load CUDA's libraries from where pip puts them; return what was said about failures.

    Most are PyTorch's, and loaded with it.
    """
    said = io.StringIO()
    if hasattr(onnxruntime, "preload_dlls"):  # since 1.21
        with contextlib.redirect_stdout(said):
            onnxruntime.preload_dlls()
    return said.getvalue()
