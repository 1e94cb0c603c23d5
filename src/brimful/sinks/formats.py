"""Output formats: a row says all that is to be known of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from brimful.sinks.rows import Rows
from brimful.sinks.to_coco import write_coco
from brimful.sinks.to_csv import write_csv
from brimful.sinks.to_json import write_json
from brimful.sinks.to_parquet import write_parquet
from brimful.sinks.to_yolo import write_yolo
from brimful.spec import TASKS


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFormat:
    """What the detections of a job are written as.

    Attributes:
        name: What `--format` calls it.
        suffixes: Of the files that mean it; none where it has to be named.
        write: Converts the journal to the output and, where there is one, the second file; None
            where the journal is the output.
        second: Returns the name of the second file, of the output's name; None for no such file.
        folder: Whether the output is a folder.
        tasks: What the model may predict.
        module: Python module that must be installed, with the extra that brings it, or None.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    write: Callable[[Rows, Path, Path | None], None] | None = None
    second: Callable[[str], str] | None = None
    folder: bool = False
    tasks: tuple[str, ...] = TASKS
    module: tuple[str, str] | None = None


def _one_file(write: Callable[[Rows, Path], None]) -> Callable[[Rows, Path, Path | None], None]:
    return lambda rows, output, second: write(rows, output)


def _two_files(
    write: Callable[[Rows, Path, Path], None],
) -> Callable[[Rows, Path, Path | None], None]:
    def both(rows: Rows, output: Path, second: Path | None) -> None:
        assert second is not None  # the format names one
        write(rows, output, second)

    return both


OUTPUT_FORMATS: tuple[OutputFormat, ...] = (
    OutputFormat(name="jsonl", suffixes=(".jsonl", ".ndjson")),
    OutputFormat(name="json", suffixes=(".json",), write=_one_file(write_json)),
    OutputFormat(name="csv", suffixes=(".csv",), write=_one_file(write_csv)),
    OutputFormat(
        name="coco",
        suffixes=(".coco.json",),
        write=_two_files(write_coco),
        second=lambda name: f"{name.removesuffix('.json').removesuffix('.coco')}.images.json",
        tasks=tuple(task for task in TASKS if task != "classify"),
    ),
    OutputFormat(
        name="parquet",
        suffixes=(".parquet",),
        write=_two_files(write_parquet),
        second=lambda name: f"{name.removesuffix('.parquet')}.images.parquet",
        module=("pyarrow", "parquet"),
    ),
    OutputFormat(
        name="yolo",
        write=_two_files(write_yolo),
        second=lambda name: f"{name}.errors.jsonl",
        folder=True,
    ),
)

FORMATS: tuple[str, ...] = tuple(known.name for known in OUTPUT_FORMATS)
