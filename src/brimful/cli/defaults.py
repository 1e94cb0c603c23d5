"""Defaults: what `auto` and `all` stand for in a job, decided once for all of its processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brimful.cluster.devices import cpu_share, parse_devices
from brimful.cpus import available_cpus
from brimful.errors import UsageError
from brimful.models.model import ModelOptions, open_model
from brimful.runtimes.choice import AnyPrecision, Choice, choose
from brimful.runtimes.cost import JobSize
from brimful.runtimes.placement import place
from brimful.runtimes.registry import NAMES, check_name
from brimful.runtimes.runtime import PRECISIONS
from brimful.sinks.job import read_job
from brimful.sinks.output import beside, resolve_output
from brimful.sources.expected import expected_images
from brimful.vision.canvas import usual_canvases


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a job runs on and with.

    Attributes:
        devices: `cpu` or `cuda:INDEX` each.
        choice: Runtime and precision.
        hint: What would use the machine better, in words; "" for nothing.
    """

    devices: tuple[str, ...]
    choice: Choice
    hint: str


def resolve_defaults(
    path: Path | None,
    options: ModelOptions,
    *,
    device: str,
    runtime: str,
    precision: AnyPrecision,
    half: bool,
    source: str,
    canvas: str,
    threads: int | None,
    resumes: Path | None,
) -> Defaults:
    """Decide what a job runs on and with.

    Args:
        path: The model's file.
        options: How it is read.
        device: The text of `--device`.
        runtime: A runtime's name, or `auto`.
        precision: A precision, or `auto`.
        half: Whether `--half` was given.
        source: Where images come from, which are counted if that decides anything.
        canvas: The text of `--canvas`.
        threads: CPU threads of each forward; None takes all, or of several devices a share each.
        resumes: The output of a job to go on with. What was `auto` is what that job had: rows of
            two runtimes differ in their last digits.

    Raises:
        BrimfulError: With what was expected, what came, and what to do.
    """
    if half and precision not in ("auto", "fp16"):
        raise UsageError(
            f"--half means precision=fp16, and precision={precision} was given; give one"
        )
    check_name(runtime)
    devices = parse_devices(device)
    earlier = {} if resumes is None else read_job(beside(resolve_output(resumes), ".job.json"))
    if runtime == "auto" and earlier.get("runtime") in NAMES:
        runtime = earlier["runtime"]
    if half:
        precision = "fp16"
    elif precision == "auto" and earlier.get("precision") in PRECISIONS:
        precision = earlier["precision"]
    model = None if path is None else open_model(path, options)
    hint = ""
    if devices[0] in ("auto", "all"):
        placement = place(devices[0], runtime, model)
        devices, hint = list(placement.devices), placement.hint
    counts = runtime == "auto" and model is not None and devices[0] == "cpu"
    job = JobSize(
        images=expected_images(source) if counts else None,
        canvases=usual_canvases(canvas),
        threads=threads or cpu_share(available_cpus(), len(devices)),
    )
    return Defaults(tuple(devices), choose(runtime, precision, model, devices[0], job), hint)
