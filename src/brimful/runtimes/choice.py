"""Choice: the runtime and the precision that `auto` stands for, for a model, a device and a job.

On a GPU it is the first runtime of the registry that is installed. On a CPU it is the one with
which the job ends first: what each takes is measured once a model and machine, when a job comes
that is long enough to pay for it; before, it is assumed (`assumed_cost`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from brimful.cpus import BF16_FLAGS, cpu_flags
from brimful.errors import ExportError, MissingExtraError
from brimful.models.model import Model
from brimful.models.onnx_precision import arithmetic
from brimful.models.to_fp16 import to_fp16
from brimful.runtimes.cost import Cost, JobSize, assumed_cost
from brimful.runtimes.measurement import Candidate, Measurement
from brimful.runtimes.registry import Entry, check_name, installed_entries, named_entry
from brimful.runtimes.runtime import Precision

AnyPrecision = Literal["auto", "fp32", "bf16", "fp16"]
"""A precision, or `auto` for the fastest that keeps mAP within 0.15 of fp32's on the device."""

WORTH_S = 20.0
"""Seconds of a job for which it is worth measuring, which takes two or three."""


NEARLY = 1.05
"""How many times longer a job may take with a runtime that starts sooner."""


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
    job: JobSize,
    *,
    flags: frozenset[str] | None = None,
) -> Choice:
    """Return what a runtime's and a precision's name stand for.

    Args:
        runtime: A name of the registry, or `auto`.
        precision: A precision, or `auto`.
        model: The model; None with the `debug` runtime.
        device: Where it runs, no longer `auto`.
        job: How much there is to do.
        flags: What the CPU can do; what the kernel says by default.

    Raises:
        UsageError: There is no such runtime, or it cannot take this model.
        MissingExtraError: It is not installed.
    """
    check_name(runtime)
    if runtime == "debug" or model is None:  # without a model, loading has an error to raise
        return Choice(runtime, "fp32" if precision == "auto" else precision)
    flags = cpu_flags() if flags is None else flags
    if runtime != "auto":
        entry = named_entry(runtime, model, device)
        if precision == "auto":
            precision = best_precision(entry, model, device, flags)
        return Choice(entry.name, precision)
    found = candidates(precision, model, device, flags)
    if len(found) > 1:
        costs = costs_of(found, model, job, flags)
        found = [first_done(list(zip(found, costs, strict=True)), job)]
    ((entry, precision),) = found
    return Choice(entry.name, precision)


def first_done(priced: list[tuple[Candidate, Cost]], job: JobSize) -> Candidate:
    """Return the candidate with which a job ends first.

    Where several end at nearly the same time it is the one that starts first: it takes less
    memory, too, as what takes long to start is what is compiled.

    Args:
        priced: Candidates and what they take.
        job: How much there is to do.
    """
    soonest = min(cost.of(job) for _, cost in priced)
    near = [pair for pair in priced if pair[1].of(job) <= NEARLY * soonest]
    return min(near, key=lambda pair: pair[1].load_s + pair[1].canvas_s)[0]


def candidates(
    precision: AnyPrecision, model: Model, device: str, flags: frozenset[str]
) -> list[Candidate]:
    """Return the runtimes that `auto` chooses among, each with its precision.

    Raises:
        UsageError: No runtime can.
        MissingExtraError: Those that can are not installed.
    """
    if precision != "auto":
        entries = [(e, precision) for e in installed_entries(model, device, precision)]
    else:
        entries = [
            (entry, best_precision(entry, model, device, flags))
            for entry in installed_entries(model, device, None)
        ]
    # PyTorch takes seconds to import, and is slower than any other on a CPU.
    others = [found for found in entries if found[0].module != "torch"]
    return others if device == "cpu" and others else entries[:1]


def costs_of(
    found: list[Candidate],
    model: Model,
    job: JobSize,
    flags: frozenset[str],
    *,
    measurement: Measurement | None = None,
) -> list[Cost]:
    """Return what each candidate takes: as measured, if it was or if the job is worth it.

    Args:
        found: The candidates.
        model: The model.
        job: How much there is to do.
        flags: What the CPU can do.
        measurement: Measures and keeps; the real one by default.
    """
    assumed = [assumed_cost(entry, how, model, job.threads, flags) for entry, how in found]
    if measurement is None:
        measurement = Measurement(model, found, job.threads)
    costs = measurement.kept()
    if costs is None and min(cost.of(job) for cost in assumed) > WORTH_S:
        costs = measurement.take()
    return costs or assumed


def best_precision(entry: Entry, model: Model, device: str, flags: frozenset[str]) -> Precision:
    """Return the fastest precision of a runtime that hardly changes what is found.

    On a GPU that is fp16. On a CPU it is bf16 where the CPU multiplies such numbers itself.
    benchmarks/NOTES.md has what either does to mAP.
    """
    if device != "cpu":
        half = "fp16" in entry.precisions
        if half and entry.name == "onnxruntime":
            half = _computes_in_half(model)
        return "fp16" if half else "fp32"
    return "bf16" if "bf16" in entry.precisions and flags & BF16_FLAGS else "fp32"


def _computes_in_half(model: Model) -> bool:
    """Tell whether an ONNX file is in fp16, or can be had so.

    One in bf16 or int8 is run as it is. One in fp32 is converted, and the result is kept for the
    runtime; some files cannot be.
    """
    kind = arithmetic(model.path) if model.format == "onnx" else "fp32"
    if kind != "fp32":
        return kind == "fp16"
    try:
        to_fp16(model.as_onnx())
    except (ExportError, MissingExtraError):
        return False
    return True
