"""LedgerSink: a job that survives being killed.

While it runs, results are appended to `<output>.partial`, and `<output>.job.json` says what
they were made with. At the end the output appears at once and whole: JSON lines by renaming the
journal, every other format converted from it row by row. So there is one ledger, whatever the
format, and a job killed at any moment, conversion included, goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from brimful.detections import Detections
from brimful.errors import BrimfulError, UsageError
from brimful.formats.coco import CategoryMap
from brimful.native.json_lines import open_encoder
from brimful.sinks.atomic import remove_unused, sync_folder
from brimful.sinks.done import DoneSet
from brimful.sinks.formats import OutputFormat
from brimful.sinks.job import check_job, write_job
from brimful.sinks.journal import Journal
from brimful.sinks.output import beside, resolve_output
from brimful.sinks.rows import Rows
from brimful.sinks.to_yolo import check_replaceable
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
        output = resolve_output(output)
        self._output, self._format = output, format
        second = None if format.second is None else format.second(output.name)
        self._second = None if second is None else resolve_output(output.with_name(second))
        self._partial = beside(output, ".partial")
        self._job_file = beside(output, ".job.json")
        self._rows = Rows(journal=self._partial, task=task, names=names, categories=categories)
        self._encode = open_encoder()
        self._closed = False
        self._overwrite = overwrite
        self._identity = 0
        self._check_partial(resume=resume, overwrite=overwrite)
        self._check_output(
            asked=resume, resume=resume and self._partial.exists(), overwrite=overwrite
        )
        description = {"job": dict(job), "task": task, "names": names}
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{output.parent} cannot be created: {error.strerror}") from None
        self._journal = Journal(self._partial)
        try:
            # An empty journal has nothing to go on with, whatever it was begun for.
            self._resumed = resume and not self._journal.empty
            # Another job may have ended before the journal was locked, and this be its output.
            self._check_output(asked=resume, resume=self._resumed, overwrite=overwrite)
            if self._resumed:
                check_job(self._job_file, description)
                self._journal.repair()
                self._done = self._journal.done(len(names))
            else:
                self._journal.clear()
                self._begin(description)
                self._done = DoneSet()
        except BaseException:
            if self._journal.empty:
                self._partial.unlink(missing_ok=True)
            self._journal.close()
            raise
        self._remove_left_over()

    @property
    def done(self) -> DoneSet:
        """What an earlier, interrupted run of the job has written already."""
        return self._done

    def earlier(self) -> Iterator[Detections]:
        """Yield the results that an interrupted run has written; to be read before the first write.

        Raises:
            UsageError: A row is no result of this model.
        """
        return iter(self._rows) if self._resumed else iter(())

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
        try:
            self._journal.sync()
            if self._format.write is None:
                self._partial.replace(self._output)
            else:
                self._format.write(self._rows, self._output, self._second)
                self._partial.unlink()
            self._end_job()
            sync_folder(self._output.parent)
            self._closed = True
        except OSError as error:
            raise BrimfulError(
                f"{self._output} cannot be written: {error.strerror or error}. The results "
                f"are in {self._partial}: go on with --resume"
            ) from error
        self.abandon()

    def abandon(self) -> None:
        """Close the journal and leave it where it is, or remove it where it has nothing."""
        if not self._closed and self._journal.empty and not self._resumed:
            self._partial.unlink(missing_ok=True)
            self._end_job()
        self._closed = True
        self._journal.close()

    def _begin(self, description: Mapping[str, Any]) -> None:
        try:
            write_job(self._job_file, description)
        except OSError as error:
            raise BrimfulError(
                f"{self._job_file} cannot be written: {error.strerror or error}. Nothing was "
                "begun: make room, or give an output elsewhere"
            ) from error
        self._identity = self._job_file.stat().st_ino

    def _end_job(self) -> None:
        """Remove the job file, unless it is another job's that has begun meanwhile."""
        with suppress(FileNotFoundError):
            if self._resumed or self._job_file.stat().st_ino == self._identity:
                self._job_file.unlink()

    def _remove_left_over(self) -> None:
        """Remove what a killed conversion of this output left; the lock keeps others away."""
        if not self._resumed and not self._overwrite:
            return
        for path in (self._output, self._second, self._job_file):
            if path is not None:
                remove_unused(path)

    def _check_partial(self, *, resume: bool, overwrite: bool) -> None:
        if self._partial.exists() and not resume and not overwrite:
            raise UsageError(
                f"{self._partial} is of a job that was interrupted; use --resume to go on with "
                "it, or --overwrite to start anew"
            )

    def _check_output(self, *, asked: bool, resume: bool, overwrite: bool) -> None:
        """Refuse an output that must not be replaced.

        Args:
            asked: Whether `resume` was asked for, for the message.
            resume: Whether there is a job to go on with.
            overwrite: Whether to replace what exists.
        """
        finished = "the job is finished: " if asked else ""
        second = self._second
        existing = [path for path in (self._output, second) if path is not None and path.exists()]
        if self._format.folder and self._output.exists():
            if self._output.is_dir() and not any(self._output.iterdir()):
                existing.remove(self._output)  # an empty folder has nothing to lose
            else:
                check_replaceable(self._output)
        elif self._output.is_dir():
            raise UsageError(f"{self._output} is a folder; give a file, or --format yolo")
        if second is not None and second.is_dir():
            raise UsageError(
                f"{second}, the second file of {self._format.name}, is a folder; "
                "give another output"
            )
        if existing and not overwrite and not resume:
            raise UsageError(
                f"{finished}{existing[0]} exists; use --overwrite to replace it, "
                "or give another output"
            )
