"""Rows: the results in a journal, read as often as a conversion needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from brimful.detections import Detections
from brimful.formats.coco import CategoryMap
from brimful.formats.json_record import from_record
from brimful.sinks.journal import read_rows
from brimful.spec import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The results in a finished journal; iterating reads the file from its start.

    Attributes:
        journal: The JSON lines.
        task: What the model predicted.
        names: Its class names.
        categories: How class ids become COCO category ids.
    """

    journal: Path
    task: Task
    names: tuple[str, ...]
    categories: CategoryMap = "auto"

    def __iter__(self) -> Iterator[Detections]:
        """Yield the results in the order they were written, one in memory at a time."""
        for record in read_rows(self.journal):
            yield from_record(record, task=self.task, names=self.names)
