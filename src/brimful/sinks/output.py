"""What an output can be: its format by name or suffix, and the files that belong to it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Literal, cast, get_args

from brimful.errors import UsageError

OutputFormat = Literal["jsonl", "json", "coco", "parquet", "yolo"]
"""What the detections of a job are written as."""

FORMATS: tuple[str, ...] = get_args(OutputFormat)

# The longer suffix first: `.coco.json` is also a `.json`.
_SUFFIXES: dict[str, OutputFormat] = {
    ".coco.json": "coco",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
}


def resolve_format(output: Path | None, format: str | None) -> OutputFormat:
    """Return the format of an output, by its name or else by the suffix of the file.

    Raises:
        UsageError: The name or the suffix is unknown, or standard output cannot have it.
    """
    if format is not None and format not in FORMATS:
        raise UsageError(f"unknown format {format!r}; expected one of {', '.join(FORMATS)}")
    if output is None:
        if format not in (None, "jsonl"):
            raise UsageError(f"standard output takes jsonl only; give a file for {format}")
        return "jsonl"
    if format is not None:
        return cast("OutputFormat", format)
    for suffix, by_suffix in _SUFFIXES.items():
        if output.name.lower().endswith(suffix):
            return by_suffix
    raise UsageError(
        f"the suffix of {output} says no format; expected {', '.join(sorted(_SUFFIXES))}, "
        f"or --format with one of {', '.join(FORMATS)} (yolo writes a folder)"
    )


def resolve_output(output: Path) -> Path:
    """Return the file or folder that an output names: of a symbolic link, what it leads to.

    The output is replaced by a rename, which would take a link, a device or a pipe away.

    Raises:
        UsageError: It leads to what is neither a file nor a folder.
    """
    try:
        if output.is_symlink():
            output = Path(os.path.realpath(output, strict=False))
        mode = output.lstat().st_mode
    except FileNotFoundError:
        return output
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UsageError(
            f"{output} is a device, pipe, socket or circle of links; expected a file that can be "
            "replaced. Without an output, JSON lines go to standard output, which may be any of "
            "these"
        )
    return output


def beside(output: Path, ending: str) -> Path:
    """Return a file beside the output: its name plus an ending such as `.partial`."""
    return output.with_name(output.name + ending)


def companion(output: Path, format: OutputFormat) -> Path | None:
    """Return the second file of a format: the images of COCO results and of Parquet."""
    if format == "coco":
        stem = output.name.removesuffix(".json").removesuffix(".coco")
        return output.with_name(f"{stem}.images.json")
    if format == "parquet":
        return output.with_name(f"{output.name.removesuffix('.parquet')}.images.parquet")
    if format == "yolo":
        return beside(output, ".errors.jsonl")
    return None
