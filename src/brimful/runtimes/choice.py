"""Choice: the runtime and the precision that `auto` stands for, for a model on a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brimful.cpus import BF16_FLAGS, cpu_flags
from brimful.extras import installed
from brimful.models.model import Model
from brimful.models.onnx_precision import arithmetic
from brimful.runtimes.registry import Entry, check_name, installed_entries, named_entry
from brimful.runtimes.runtime import Precision

AnyPrecision = Literal["auto", "fp32", "bf16", "fp16"]
"""A precision, or `auto` for the fastest that keeps mAP within 0.15 of fp32's on the device."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What runs a model.

    Attributes:
        runtime: Its name.
        precision: Arithmetic of the forward.
    """

    runtime: str
    precision: Precision


def choose(
    runtime: str,
    precision: AnyPrecision,
    model: Model | None,
    device: str,
    *,
    flags: frozenset[str] | None = None,
) -> Choice:
    """Return what a runtime's and a precision's name stand for.

    Args:
        runtime: A name of the registry, or `auto`.
        precision: A precision, or `auto`.
        model: The model; None with the `debug` runtime.
        device: Where it runs, no longer `auto`.
        flags: What the CPU can do; what the kernel says by default.

    Raises:
        UsageError: There is no such runtime, or it cannot take this model.
        MissingExtraError: It is not installed.
    """
    check_name(runtime)
    if runtime == "debug" or model is None:  # without a model, loading has an error to raise
        return Choice(runtime, "fp32" if precision == "auto" else precision)
    flags = cpu_flags() if flags is None else flags
    if runtime == "auto":
        wanted = None if precision == "auto" else precision
        entry = installed_entries(model, device, wanted)[0]
    else:
        entry = named_entry(runtime, model, device)
    return Choice(
        entry.name,
        best_precision(entry, model, device, flags) if precision == "auto" else precision,
    )


def best_precision(entry: Entry, model: Model, device: str, flags: frozenset[str]) -> Precision:
    """Return the fastest precision of a runtime that hardly changes what is found.

    On a GPU that is fp16. On a CPU it is bf16 where the CPU multiplies such numbers itself.
    benchmarks/NOTES.md has what either does to mAP.
    """
    if device != "cpu":
        half = "fp16" in entry.precisions
        if half and entry.name == "onnxruntime":
            # A file in bf16 or int8 is run as it is, and one in fp32 has to be converted.
            kind = arithmetic(model.path) if model.format == "onnx" else "fp32"
            half = kind == "fp16" or (kind == "fp32" and installed("onnx"))
        return "fp16" if half else "fp32"
    return "bf16" if "bf16" in entry.precisions and flags & BF16_FLAGS else "fp32"
