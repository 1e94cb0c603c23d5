"""Progress of a job on standard error: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 5.0


class JobProgress:
    """Shows images done, rate, time left and failures."""

    def __init__(self, total: int | None, *, quiet: bool, console: Console | None = None) -> None:
        """Prepare.

        Args:
            total: Images to come, None when that is unknown.
            quiet: Show nothing.
            console: Where to; standard error by default.
        """
        self._console = console or Console(stderr=True)
        self._total = total
        self._quiet = quiet
        self._images = 0
        self._failures = 0
        self._started = time.perf_counter()
        self._next_line = self._started + LINE_EVERY_S
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        if not quiet and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("[bold]{task.completed:,.0f}[/] images"),
                BarColumn(),
                TextColumn("{task.fields[rate]:,.0f} img/s"),
                TimeRemainingColumn(),
                TextColumn("[red]{task.fields[failed]}[/]"),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> JobProgress:
        """Show the bar."""
        self._started = time.perf_counter()
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, rate=0.0, failed="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def advance(self, images: int, failures: int) -> None:
        """Count images that are done, failures among them."""
        self._images += images
        self._failures += failures
        now = time.perf_counter()
        rate = self._images / max(now - self._started, 1e-9)
        if self._bar is not None and self._task is not None:
            failed = f"{self._failures:,} failed" if self._failures else ""
            self._bar.update(self._task, completed=self._images, rate=rate, failed=failed)
        elif not self._quiet and now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            of = f" of {self._total:,}" if self._total is not None else ""
            failed = f", {self._failures:,} failed" if self._failures else ""
            with suppress(OSError):  # nobody reads it any more: no reason to stop the job
                print(
                    f"{self._images:,}{of} images, {rate:,.1f} img/s{failed}",
                    file=sys.stderr,
                    flush=True,
                )
