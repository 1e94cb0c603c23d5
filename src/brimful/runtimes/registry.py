"""Which runtimes there are, what each can do, and which is the fastest for a model here.

Nothing is imported until it is chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from brimful.cuda.context import start_context
from brimful.cuda.triton_key import start_hashing
from brimful.errors import MissingExtraError, UsageError
from brimful.extras import installed, require
from brimful.models.model import Format, Model
from brimful.runtimes.runtime import Runtime, RuntimeOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A runtime and what it can do.

    Attributes:
        name: What `--runtime` calls it.
        module: The Python module that must be installed.
        extra: The extra that brings it.
        formats: Model files it takes.
        devices: Kinds of device it runs on.
        precisions: Arithmetic it offers, where the device has it.
        load: Imports and makes it.
        keeps_budget: Whether it limits the memory of its device.
        distributions: Packages that bring the module, where their names are others.
        also: Modules that it needs besides.
    """

    name: str
    module: str
    extra: str
    formats: tuple[Format, ...]
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    load: Callable[[Model, RuntimeOptions], Runtime]
    keeps_budget: bool = False
    distributions: tuple[str, ...] = ()
    also: tuple[str, ...] = ()

    def takes(self, format: Format, kind: str) -> bool:
        """Whether it runs a model of this format on this kind of device."""
        return format in self.formats and kind in self.devices


def _onnxruntime(model: Model, options: RuntimeOptions) -> Runtime:
    from brimful.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(model, options)


def _onnxruntime_cuda(model: Model, options: RuntimeOptions) -> Runtime:
    start_context(options.device)
    feature = "The onnxruntime runtime on CUDA"
    require("torch", feature=feature, extra="onnxruntime-gpu")
    require("triton", feature=feature, extra="onnxruntime-gpu")
    from brimful.runtimes.cuda.onnx.runtime import OnnxCudaRuntime

    return OnnxCudaRuntime(model, options)


def _openvino(model: Model, options: RuntimeOptions) -> Runtime:
    from brimful.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(model, options)


def _torch(model: Model, options: RuntimeOptions) -> Runtime:
    if model.format == "pt" and options.device != "cpu":
        start_context(options.device)  # while PyTorch is imported
        start_hashing()
        require("triton", feature="The torch runtime on CUDA", extra="torch")
        from brimful.runtimes.cuda.runtime import TorchCudaRuntime

        return TorchCudaRuntime(model, options)
    from brimful.runtimes.torch_eager import TorchRuntime

    return TorchRuntime(model, options)


RUNTIMES: tuple[Entry, ...] = (
    Entry(
        name="openvino",
        module="openvino",
        extra="openvino",
        formats=("pt", "onnx", "openvino"),
        devices=("cpu",),
        precisions=("fp32", "bf16", "fp16"),
        load=_openvino,
    ),
    Entry(
        name="onnxruntime",
        module="onnxruntime",
        extra="onnxruntime",
        formats=("pt", "onnx"),
        devices=("cpu",),
        precisions=("fp32",),
        load=_onnxruntime,
        distributions=("onnxruntime", "onnxruntime-gpu"),
    ),
    Entry(
        name="torch",
        module="torch",
        extra="ultralytics",
        formats=("pt",),
        devices=("cpu", "cuda"),
        precisions=("fp32", "bf16", "fp16"),
        load=_torch,
        keeps_budget=True,
    ),
    Entry(
        name="onnxruntime",
        module="onnxruntime",
        extra="onnxruntime-gpu",
        formats=("pt", "onnx"),
        devices=("cuda",),
        precisions=("fp32", "fp16"),
        load=_onnxruntime_cuda,
        keeps_budget=True,
        distributions=("onnxruntime-gpu",),
        also=("torch", "triton"),
    ),
    Entry(
        name="torchscript",
        module="torch",
        extra="torch",
        formats=("torchscript",),
        devices=("cpu", "cuda"),
        precisions=("fp32",),
        load=_torch,
    ),
)
"""Real runtimes, the fastest first (benchmarks/NOTES.md has the measurement).

One that is another program on another kind of device has an entry for each.
"""

NAMES: tuple[str, ...] = (*dict.fromkeys(entry.name for entry in RUNTIMES), "debug")


def load_runtime(name: str, model: Model | None, options: RuntimeOptions) -> Runtime:
    """Load a model with a runtime, `auto` for the fastest that can take both.

    Raises:
        UsageError: The runtime is unknown, or cannot take this model, device or precision.
        MissingExtraError: The runtime is not installed.
    """
    if name == "debug":
        _check_budget(None, name, model, options)
        from brimful.runtimes.debug import DebugRuntime

        return DebugRuntime(options)
    check_name(name)
    if model is None:
        raise UsageError("a model is needed: --model FILE (only runtime=debug does without one)")
    entry = _pick(model, options) if name == "auto" else named_entry(name, model, options.device)
    _check_budget(entry, name, model, options)
    return entry.load(model, options)


def check_name(name: str) -> None:
    """Refuse a runtime that there is not.

    Raises:
        UsageError: Listing those there are.
    """
    if name not in (*NAMES, "auto"):
        raise UsageError(f"runtime {name!r} is unknown; expected auto or one of {', '.join(NAMES)}")


def _check_budget(
    entry: Entry | None, name: str, model: Model | None, options: RuntimeOptions
) -> None:
    """Refuse a memory budget that nobody would keep."""
    if options.memory is not None and not (entry is not None and entry.keeps_budget):
        raise UsageError(
            "gpu_mem is kept on CUDA by the torch runtime with a .pt and by onnxruntime with a .pt "
            f"or an .onnx, not by runtime={name} with {model.path.name if model else 'no model'}; "
            "leave it out"
        )


def named_entry(name: str, model: Model, device: str) -> Entry:
    """Return the runtime of a name, as it is on a kind of device.

    Raises:
        UsageError: It does not take this model.
        MissingExtraError: It is not installed.
    """
    entries = [entry for entry in RUNTIMES if entry.name == name]
    kind = device.split(":")[0]
    entry = next((entry for entry in entries if kind in entry.devices), entries[0])
    if model.format not in entry.formats:
        takers = dict.fromkeys(other.name for other in RUNTIMES if model.format in other.formats)
        raise UsageError(
            f"the {name} runtime takes {', '.join(entry.formats)} models, not {model.path.name}; "
            f"use runtime={' or runtime='.join(takers)}"
        )
    if not installed(entry.module):
        raise MissingExtraError(f"The {name} runtime", entry.extra, module=entry.module)
    return entry


def _pick(model: Model, options: RuntimeOptions) -> Entry:
    return installed_entries(model, options.device, options.precision)[0]


def installed_entries(model: Model, device: str, precision: str | None) -> list[Entry]:
    """Return the runtimes of this installation that can run a model, the fastest first.

    Args:
        model: The model.
        device: Where it shall run.
        precision: The arithmetic that is wanted; None for any.

    Returns:
        At least one.

    Raises:
        UsageError: No runtime can.
        MissingExtraError: Those that can are not installed.
    """
    kind = device.split(":")[0]
    fitting = [
        entry
        for entry in RUNTIMES
        if entry.takes(model.format, kind) and (precision is None or precision in entry.precisions)
    ]
    if not fitting:
        wanted = "" if precision is None else f" in {precision}"
        raise UsageError(
            f"no runtime takes a {model.format} model on device {device!r}{wanted}; "
            "devices are cpu and cuda, precisions fp32, bf16 and fp16"
        )
    found = [entry for entry in fitting if installed(entry.module)]
    if not found:
        raise MissingExtraError(
            f"A {model.format} model on {kind}", fitting[0].extra, module=fitting[0].module
        )
    return found
