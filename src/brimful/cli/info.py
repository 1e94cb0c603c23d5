"""`brimful info`: what a model is, and which runtimes are installed."""

from __future__ import annotations

from dataclasses import fields

import click

from brimful.cpus import available_cpus
from brimful.demo.model import resolve_model
from brimful.extras import installed, installed_version
from brimful.load import load
from brimful.runtimes.registry import RUNTIMES


@click.command()
@click.option("--model", help="A model to look at.")
@click.option("--runtime", default="auto", help="Runtime that reads it.")
@click.option("--trust-model", is_flag=True, help="Read a .pt that may run code of its own.")
def info(*, model: str | None, runtime: str, trust_model: bool) -> None:
    """Show the runtimes of this installation, or what a model file is."""
    if model is None:
        click.echo(f"brimful {installed_version('brimful')}, {available_cpus()} CPUs")
        for entry in RUNTIMES:
            names = entry.distributions or (entry.module,)
            version = installed_version(*names) if installed(entry.module) else None
            state = version or f"not installed: pip install 'brimful[{entry.extra}]'"
            takes = f"{', '.join(entry.formats)} on {', '.join(entry.devices)}"
            click.echo(f"  {entry.name:12} {state:12} takes {takes}")
        return
    with load(resolve_model(model), runtime=runtime, trust_model=trust_model) as engine:
        for field in fields(engine.spec):
            click.echo(f"{field.name:14} {getattr(engine.spec, field.name)}")
        for key, value in engine.describe().items():
            click.echo(f"{key:14} {value}")
