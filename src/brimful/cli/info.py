"""`brimful info`: what a model is, which runtimes are installed, and what was measured of them."""

from __future__ import annotations

from dataclasses import fields

import click

from brimful.cpus import BF16_FLAGS, available_cpus, cpu_flags, cpu_model
from brimful.demo.model import resolve_model
from brimful.errors import UsageError
from brimful.extras import installed, installed_version
from brimful.gpus import find_gpus
from brimful.load import load
from brimful.models.model import ModelOptions, open_model
from brimful.runtimes.choice import candidates
from brimful.runtimes.cost import Cost, assumed_cost
from brimful.runtimes.measurement import Measurement, kept_measurements
from brimful.runtimes.placement import place
from brimful.runtimes.registry import RUNTIMES


@click.command()
@click.option("--model", help="A model to look at.")
@click.option("--runtime", default="auto", help="Runtime that reads it.")
@click.option("--measure", is_flag=True, help="Measure what runtimes take for it on this CPU.")
@click.option("--trust-model", is_flag=True, help="Read a .pt that may run code of its own.")
def info(*, model: str | None, runtime: str, measure: bool, trust_model: bool) -> None:
    """Show the runtimes of this installation, or what a model file is.

    With --model also where it runs by default, and what each runtime takes for it on this CPU:
    measured, or assumed where it was not measured yet.
    """
    if model is None:
        if measure:
            raise UsageError("--measure needs a model: --model FILE")
        _show_installation()
        return
    path = resolve_model(model)
    with load(path, runtime=runtime, device="cpu", trust_model=trust_model, images=1) as engine:
        for field in fields(engine.spec):
            click.echo(f"{field.name:14} {getattr(engine.spec, field.name)}")
        for key, value in engine.describe().items():
            click.echo(f"{key:14} {value}")
    opened = open_model(path or "", ModelOptions(trust=trust_model))
    placement = place("auto", runtime, opened)
    click.echo(f"{'default':14} device {placement.devices[0]}")
    if placement.hint:
        click.echo(f"{'':14} {placement.hint}")
    found = candidates("auto", opened, "cpu", cpu_flags())
    threads = available_cpus()
    measurement = Measurement(opened, found, threads)
    costs = measurement.kept() or (measurement.take() if measure else None)
    words = "measured" if costs else "assumed"
    guesses = [assumed_cost(entry, how, opened, threads, cpu_flags()) for entry, how in found]
    for (entry, precision), cost in zip(found, costs or guesses, strict=True):
        click.echo(f"{words:14} {_line(entry.name, precision, cost)}")


def _show_installation() -> None:
    """Show runtimes, devices, and what was measured on machines that share the cache."""
    bf16 = ", multiplies bf16" if cpu_flags() & BF16_FLAGS else ""
    click.echo(f"brimful {installed_version('brimful')}, {available_cpus()} CPUs")
    click.echo(f"  {cpu_model()}{bf16}; {find_gpus().count} GPUs")
    for entry in RUNTIMES:
        names = entry.distributions or (entry.module,)
        version = installed_version(*names) if installed(entry.module) else None
        state = version or f"not installed: pip install 'brimful[{entry.extra}]'"
        takes = f"{', '.join(entry.formats)} on {', '.join(entry.devices)}"
        click.echo(f"  {entry.name:12} {state:12} takes {takes}")
    for name, facts, costs in kept_measurements():
        click.echo(f"measured for {name}, {facts['threads']} threads, {facts['cpu']}")
        for (runtime, precision, version), cost in zip(facts["runtimes"], costs, strict=True):
            click.echo(f"  {_line(runtime, precision, cost)}, version {version}")


def _line(runtime: str, precision: str, cost: Cost) -> str:
    memory = "" if cost.canvas_mib is None else f", {cost.canvas_mib} MiB with the first canvas"
    return (
        f"{runtime} {precision}: load {cost.load_s:.2f} s, a canvas {cost.canvas_s:.2f} s, "
        f"an image {1000 * cost.image_s:.1f} ms{memory}"
    )
