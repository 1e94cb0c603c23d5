"""open_sink: the sink that an output path and a format stand for."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from brimful.errors import UsageError
from brimful.extras import require
from brimful.formats.coco import CategoryMap, resolve_categories
from brimful.sinks.formats import OUTPUT_FORMATS
from brimful.sinks.ledger import LedgerSink
from brimful.sinks.null import NullSink
from brimful.sinks.output import resolve_format
from brimful.sinks.sink import Sink
from brimful.sinks.stdout import StdoutSink
from brimful.spec import Task


def open_sink(
    output: Path | None,
    format: str | None = None,
    *,
    job: Mapping[str, Any],
    names: tuple[str, ...],
    task: Task,
    resume: bool = False,
    overwrite: bool = False,
    categories: CategoryMap = "auto",
    stream: BinaryIO | None = None,
    silent: bool = False,
) -> Sink:
    """Open where detections go. All mistakes that can be known are found here, not at the end.

    Args:
        output: The file (of yolo: the folder) that appears when the job is complete, or None for
            JSON lines on standard output.
        format: A name of `brimful.sinks.formats`; by default what the suffix says.
        job: What makes a result: model hash, options, source. JSON values; a Path and the like
            is kept as its text. A job is resumed with the same values only.
        names: Class names of the model.
        task: What the model predicts.
        resume: Go on with an interrupted job; start one when there is none.
        overwrite: Replace an output that exists, and forget an interrupted job.
        categories: How class ids become COCO category ids.
        stream: Stands for standard output, `sys.stdout.buffer` by default.
        silent: No output at all, where None is the output.

    Raises:
        UsageError: The format is unknown or does not fit the task, the output or an interrupted
            job exists, or the job to resume is another one.
        MissingExtraError: Parquet without pyarrow.
    """
    resolved = resolve_format(output, format)
    if resume and overwrite:
        raise UsageError("--resume goes on with a job and --overwrite forgets it; give one of them")
    resolve_categories(categories, names)
    if output is None:
        if resume:
            raise UsageError("a job on standard output cannot be resumed; give an output file")
        if silent:
            return NullSink()
        if stream is None and sys.stdout is None:
            raise UsageError("standard output is closed; give a file with --output")
        return StdoutSink(sys.stdout.buffer if stream is None else stream)
    if task not in resolved.tasks:
        others = ", ".join(known.name for known in OUTPUT_FORMATS if task in known.tasks)
        raise UsageError(f"{resolved.name} has no results for {task}; use one of {others}")
    if resolved.module is not None:
        module, extra = resolved.module
        require(module, feature=f"{resolved.name.capitalize()} output", extra=extra)
    return LedgerSink(
        output,
        resolved,
        job=job,
        resume=resume,
        overwrite=overwrite,
        names=names,
        task=task,
        categories=categories,
    )
