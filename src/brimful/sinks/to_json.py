"""Journal to a JSON list."""

from __future__ import annotations

from pathlib import Path

from brimful.sinks.atomic import whole_file
from brimful.sinks.rows import Rows


def write_json(rows: Rows, output: Path) -> None:
    """Write the objects of the journal as one list, line by line as they are."""
    with rows.journal.open("rb") as lines, whole_file(output) as file:
        file.write(b"[")
        separator = b"\n"
        for line in lines:
            file.write(separator + line.rstrip(b"\n"))
            separator = b",\n"
        file.write(b"\n]\n")
