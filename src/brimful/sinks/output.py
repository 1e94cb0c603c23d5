"""An output: its format by name or suffix, and where its files are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from brimful.errors import UsageError
from brimful.sinks.formats import OUTPUT_FORMATS, OutputFormat


def resolve_format(output: Path | None, format: str | None) -> OutputFormat:
    """Return the format of an output, by its name or else by the suffix of the file.

    Raises:
        UsageError: The name or the suffix is unknown, or standard output cannot have it.
    """
    named = {known.name: known for known in OUTPUT_FORMATS}
    if format is not None and format not in named:
        raise UsageError(f"unknown format {format!r}; expected one of {', '.join(named)}")
    if output is None:
        if format not in (None, "jsonl"):
            raise UsageError(f"standard output takes jsonl only; give a file for {format}")
        return named["jsonl"]
    if format is not None:
        return named[format]
    # The longer suffix counts: `.coco.json` is also a `.json`.
    suffixes = {suffix: known for known in OUTPUT_FORMATS for suffix in known.suffixes}
    for suffix in sorted(suffixes, key=len, reverse=True):
        if output.name.lower().endswith(suffix):
            return suffixes[suffix]
    folders = ", ".join(known.name for known in OUTPUT_FORMATS if known.folder)
    raise UsageError(
        f"the suffix of {output} says no format; expected {', '.join(sorted(suffixes))}, "
        f"or --format with one of {', '.join(named)} ({folders} writes a folder)"
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
