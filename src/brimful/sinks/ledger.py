"""LedgerSink: a job that survives being killed.

While it runs, results are appended to `<output>.partial`, and `<output>.job.json` says what
they were made with. At the end the output appears at once and whole: JSON lines by renaming the
journal, every other format converted from it row by row. So there is one ledger, whatever the
format, and a job killed at any moment, conversion included, goes on where it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brimful.detections import Detections
from brimful.errors import UsageError
from brimful.formats.coco import CategoryMap
from brimful.native.json_lines import open_encoder
from brimful.sinks.atomic import sync_folder
from brimful.sinks.done import DoneSet
from brimful.sinks.job import check_job, write_job
from brimful.sinks.journal import Journal
from brimful.sinks.output import OutputFormat, beside, companion
from brimful.sinks.rows import Rows
from brimful.sinks.to_coco import write_coco
from brimful.sinks.to_json import write_json
from brimful.sinks.to_parquet import write_parquet
from brimful.sinks.to_yolo import check_replaceable, write_yolo
from brimful.spec import Task


class LedgerSink:
    """A sink with a journal. See `brimful.sinks.sink.Sink` for what the methods promise."""

    def __init__(
        self,
        output: Path,
        format: OutputFormat,
        *,
        job: Mapping[str, Any],
        resume: bool,
        overwrite: bool,
        names: tuple[str, ...],
        task: Task,
        categories: CategoryMap,
    ) -> None:
        """Start or resume a job; `brimful.sinks.open_sink` explains the arguments."""
        self._output, self._format = output, format
        self._partial = beside(output, ".partial")
        self._job_file = beside(output, ".job.json")
        self._rows = Rows(journal=self._partial, task=task, names=names, categories=categories)
        self._encode = open_encoder()
        self._closed = False
        self._check_output(resume=resume, overwrite=overwrite)
        description = {"job": dict(job), "task": task, "names": names}
        # An empty journal has nothing to go on with, whatever it was begun for.
        resumed = resume and self._partial.exists() and self._partial.stat().st_size > 0
        if resumed:
            check_job(self._job_file, description)
        output.parent.mkdir(parents=True, exist_ok=True)
        self._journal = Journal(self._partial)
        try:
            if resumed:
                self._journal.repair()
                self._done = self._journal.done()
            else:
                self._journal.clear()
                write_job(self._job_file, description)
                self._done = DoneSet()
        except BaseException:
            self._journal.close()
            raise

    @property
    def done(self) -> DoneSet:
        """What an earlier, interrupted run of the job has written already."""
        return self._done

    def write(self, batch: Sequence[Detections]) -> None:
        """Append the results to the journal."""
        self.append(self._encode(batch))

    def append(self, lines: bytes) -> None:
        """Append JSON lines to the journal."""
        self._journal.append(lines)

    def finish(self) -> None:
        """Make the output appear, then remove the journal and the job file."""
        if self._closed:
            return
        self._journal.sync()
        if self._format == "jsonl":
            self._partial.replace(self._output)
        else:
            self._convert()
            self._partial.unlink()
        self._job_file.unlink(missing_ok=True)
        sync_folder(self._output.parent)
        self.abandon()

    def abandon(self) -> None:
        """Close the journal and leave it where it is."""
        self._closed = True
        self._journal.close()

    def _convert(self) -> None:
        second = companion(self._output, self._format)
        if second is None:
            write_json(self._rows, self._output)
        elif self._format == "coco":
            write_coco(self._rows, self._output, second)
        elif self._format == "parquet":
            write_parquet(self._rows, self._output, second)
        else:
            write_yolo(self._rows, self._output, second)

    def _check_output(self, *, resume: bool, overwrite: bool) -> None:
        if self._partial.exists() and not resume and not overwrite:
            raise UsageError(
                f"{self._partial} is of a job that was interrupted; use --resume to go on with "
                "it, or --overwrite to start anew"
            )
        second = companion(self._output, self._format)
        existing = [path for path in (self._output, second) if path is not None and path.exists()]
        if self._format == "yolo" and self._output.exists():
            if self._output.is_dir() and not any(self._output.iterdir()):
                existing.remove(self._output)  # an empty folder has nothing to lose
            else:
                check_replaceable(self._output)
        elif self._output.is_dir():
            raise UsageError(f"{self._output} is a folder; give a file, or --format yolo")
        if existing and not overwrite and not (resume and self._partial.exists()):
            finished = "the job is finished: " if resume else ""
            raise UsageError(
                f"{finished}{existing[0]} exists; use --overwrite to replace it, "
                "or give another output"
            )
