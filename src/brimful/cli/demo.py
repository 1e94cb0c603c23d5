"""`brimful demo`: generated images with labels, and the bundled model on them."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import click
from rich.console import Console

from brimful.cli.choices import FailureLimit
from brimful.cli.job import run_job
from brimful.cli.process import quiet_libraries
from brimful.cpus import available_cpus
from brimful.demo.model import demo_model
from brimful.errors import UsageError
from brimful.load import load
from brimful.sinks.journal import read_rows
from brimful.sinks.open_sink import open_sink
from brimful.sources.open_source import open_source
from brimful.vision.decode import decode

PREVIEW = 12


@click.command()
@click.option("--images", default=200, help="How many images.")
@click.option("--out", type=click.Path(path_type=Path), default="demo", help="Folder for them.")
@click.option("--seed", default=0, help="Another seed, other images.")
@click.option("--size", default="480x640", help="HEIGHTxWIDTH in pixels.")
@click.option("--workers", type=int, help="Processes that draw. Default: one per CPU.")
@click.option("--run/--no-run", help="Also detect, and draw preview.jpg.")
def demo(*, images: int, out: Path, seed: int, size: str, workers: int | None, run: bool) -> None:
    """Generate images of a factory line, with COCO labels.

    With --run the bundled model is run on them, as `brimful predict` does, and preview.jpg shows
    what it found.
    """
    from brimful.demo.dataset import write_dataset  # no other verb should wait for it

    height, _, width = size.partition("x")
    if not (height.isdigit() and width.isdigit()):
        raise UsageError(f"--size {size!r}: expected HEIGHTxWIDTH such as 480x640")
    console = Console(stderr=True)
    data = out / "data" if run else out
    console.print(f"drawing {images:,} images into {data}", highlight=False, markup=False)
    write_dataset(
        data,
        images,
        seed=seed,
        size=(int(height), int(width)),
        workers=workers or available_cpus(),
    )
    if run:
        output = out / "detections.jsonl"
        quiet_libraries()
        with load(demo_model(), images=images) as engine:
            names, task = engine.spec.names, engine.spec.task
            sink = open_sink(output, job={}, names=names, task=task, overwrite=True)
            source = open_source(data / "images")
            run_job(engine, source, sink, FailureLimit(), output=output, quiet=False)
        _preview(data / "images", output, out / "preview.jpg")
        preview = out / "preview.jpg"
        console.print(f"preview: {preview}", highlight=False, markup=False, soft_wrap=True)


def _preview(images: Path, detections: Path, preview: Path) -> None:
    """Draw the first few results as a contact sheet."""
    import cv2

    from brimful.demo.preview import contact_sheet
    from brimful.demo.scene import CLASSES
    from brimful.formats.json_record import from_record

    rows = islice(read_rows(detections), PREVIEW)
    found = [from_record(row, task="detect", names=CLASSES) for row in rows]
    pictures = [(decode(images / result.image), result) for result in found]
    sheet = contact_sheet(pictures, columns=4)
    if not cv2.imwrite(str(preview), sheet):
        raise UsageError(f"{preview} cannot be written")
