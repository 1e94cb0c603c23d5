"""The summary at the end of a job: what was done, how fast, and what limits."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from brimful.engine.lifecycle import EngineReport
from brimful.pictures.picture_sink import PictureSink

ADVICE = {
    "source": "the source is the limit: listing files or decoding video; several sources help",
    "decode": "decoding is the limit; more workers or smaller files help",
    "compile": "compiling the network for each canvas is the limit; a longer job spreads it, and "
    "--canvas square needs it only once",
    "preprocess": "letterboxing is the limit; more workers help",
    "forward": "the model is the limit, as it should be; a lower precision, a smaller model or a "
    "faster device help",
    "postprocess": "postprocess is the limit; a higher conf or a lower max_det help",
    "sink": "writing results is the limit; a faster disk or a leaner format helps",
    "pictures": "drawing and encoding pictures is the limit; more CPUs or a --vid-stride help",
}


def print_summary(
    console: Console,
    *,
    images: int,
    failures: int,
    detections: int,
    seconds: float,
    report: EngineReport,
    engine: dict[str, str | int],
    output: str | None,
    skipped: str,
    hint: str = "",
    pictures: PictureSink | None = None,
) -> None:
    """Print a job's summary.

    Args:
        console: Where to.
        images: Images done, failures among them.
        failures: Images with an error.
        detections: Detections found.
        seconds: Wall-clock time of the job, without loading the model.
        report: How the stages spent it.
        engine: What the engine says of itself.
        output: Where the detections went.
        skipped: What the source left out, in words; "" for nothing.
        hint: What would use the machine better, in words; "" for nothing.
        pictures: Where pictures went, if any were wanted.
    """
    rate = images / seconds if seconds else 0.0
    failed = f", [red]{failures:,} failed[/]" if failures else ""
    console.print(
        f"[bold]{images:,} images[/]{failed}, {detections:,} detections in {seconds:.1f} s: "
        f"[bold]{rate:,.1f} img/s[/]",
        highlight=False,
    )
    if skipped:
        console.print(skipped, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("stage", "busy", "workers", "ms/image"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for use in report.stages:
        mark = "bold" if use.name == report.limits.name else ""
        per_image = f"{1000 * use.seconds / images:.2f}" if images else "-"
        table.add_row(use.name, f"{use.busy:.0%}", str(use.workers), per_image, style=mark)
    console.print(table)
    batches = ", ".join(f"{size}: {count:,}" for size, count in report.batches.items())
    facts = ", ".join(f"{key} {value}" for key, value in engine.items())
    line = f"{facts}; forwards by batch size: {batches or 'none'}"
    console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)
    if images > failures:
        limits = report.limits.name
        if limits == "sink" and pictures is not None:
            limits = "pictures"
        advice = f"{limits} limits: {ADVICE[limits]}"
        console.print(advice, highlight=False, soft_wrap=True)
    if hint:
        console.print(hint, highlight=False, markup=False, soft_wrap=True)
    if output:  # brackets in a path are no markup
        console.print(f"detections: {output}", highlight=False, markup=False, soft_wrap=True)
    if pictures is not None:
        console.print(picture_line(pictures), highlight=False, markup=False, soft_wrap=True)


def picture_line(pictures: PictureSink) -> str:
    """Say how many pictures there are, where, and how many there are not."""
    made = [
        f"{count:,} {noun}{'' if count == 1 else 's'}"
        for count, noun in (
            (pictures.images, "image"),
            (pictures.videos, "video"),
            (pictures.crops, "crop"),
            (pictures.labels, "label file"),
        )
        if count
    ]
    missing = [
        f"{count:,} {why}"
        for count, why in (
            (pictures.failed, "without a result"),
            (pictures.lost, "that could not be made"),
        )
        if count
    ]
    but = f"; none of {' and '.join(missing)}" if missing else ""
    return f"pictures: {pictures.folder} ({', '.join(made) or 'nothing'}{but})"
