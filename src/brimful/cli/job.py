"""run_job: an engine, a source and a sink, from start to summary."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from rich.console import Console

from brimful.cli.choices import FailureLimit
from brimful.cli.progress import JobProgress
from brimful.cli.summary import print_summary
from brimful.engine.encoded import EncodedResults, encode_results
from brimful.engine.predictor import Predictor
from brimful.errors import InterruptedJobError, TooManyFailuresError
from brimful.pictures.picture_sink import PictureSink
from brimful.pictures.window import Window
from brimful.sinks.sink import Sink
from brimful.sources.entries import EntriesSource
from brimful.sources.source import Source


def run_job(
    predictor: Predictor,
    images: Source,
    sink: Sink,
    limit: FailureLimit,
    *,
    pictures: PictureSink | None = None,
    window: Window | None = None,
    output: Path | None,
    quiet: bool,
    hint: str = "",
) -> None:
    """Run a job to its end, its interruption or its failure limit.

    Args:
        predictor: What detects.
        images: Where images come from; closed at the end.
        sink: Where detections go; finished or abandoned at the end.
        limit: Failures allowed.
        pictures: Where pictures go, if any are wanted; finished or abandoned at the end.
        window: What shows results, if anything does; the caller closes it.
        output: The sink's output, for messages.
        quiet: Show neither progress nor summary.
        hint: What would use the machine better, in words, for the summary.

    Raises:
        TooManyFailuresError: More images failed than allowed.
        InterruptedJobError: Ctrl-C or SIGTERM; what was done is kept for --resume.
    """
    console = Console(stderr=True)
    # Nobody looks at the time left: the source is not listed for it.
    total = None if quiet else _length(images)
    if total is not None:
        total = max(0, total - len(sink.done))
    if not quiet and len(sink.done):
        with suppress(OSError):
            console.print(f"resuming: {len(sink.done):,} images are done already", highlight=False)
    count = failures = found = 0
    earlier = sink.done.failures  # a job's limit counts what failed before it was interrupted
    predictor.reset_stats()
    started = time.perf_counter()
    try:
        with _interruptible(), JobProgress(total, quiet=quiet, console=console) as progress:
            for results in _results(predictor, images, pictures, window):
                sink.append(results.lines)
                count += results.count
                failures += results.failures
                found += results.found
                progress.advance(results.count, results.failures)
                if limit.hopeless(earlier + failures):
                    hint = ". Go on with a higher limit and --resume" if output else ""
                    raise TooManyFailuresError(
                        f"{earlier + failures} images failed, more than --max-failures allows; "
                        f"the rows with an error say why{hint}"
                    )
            if pictures is not None:
                pictures.finish()
        seconds = time.perf_counter() - started
        report = predictor.report()
        sink.finish()
    except KeyboardInterrupt:
        _abandon(sink, pictures)
        hint = "; go on with the same command and --resume" if output else ""
        raise InterruptedJobError(f"interrupted after {count:,} images{hint}") from None
    except BaseException:
        _abandon(sink, pictures)
        raise
    if not quiet:
        skipped = str(images.skipped) if isinstance(images, EntriesSource) else ""
        with suppress(OSError):  # nobody reads it: the job is done all the same
            print_summary(
                console,
                images=count,
                failures=failures,
                detections=found,
                seconds=seconds,
                report=report,
                engine=predictor.describe(),
                output=str(output) if output else None,
                skipped=skipped,
                hint=hint,
                pictures=pictures,
            )
    failures += earlier
    count += len(sink.done)
    if limit.exceeded(failures, count):
        raise TooManyFailuresError(
            f"{failures} of {count} images failed, more than allowed; the rows with an error say "
            "why. Allow it with --max-failures, as a number or a share such as 5%"
        )
    lost = 0 if pictures is None else pictures.lost
    if limit.exceeded(failures + lost, count):
        raise TooManyFailuresError(
            f"{lost} pictures could not be made; standard error says why. Allow it with "
            "--max-failures, as a number or a share such as 5%"
        )


def _results(
    predictor: Predictor, images: Source, pictures: PictureSink | None, window: Window | None
) -> Iterator[EncodedResults]:
    """Yield the results of a job as lines; those that pictures are made of go there first."""
    if pictures is None and window is None:
        yield from predictor.stream_encoded(images)
        return
    for batch in predictor.stream(images, keep_images=window is not None):
        if pictures is not None:
            pictures.write(batch)
        if window is not None:
            window.write(batch)
        yield encode_results(batch)


def _abandon(sink: Sink, pictures: PictureSink | None) -> None:
    try:
        sink.abandon()
    finally:
        if pictures is not None:
            pictures.abandon()


def _length(images: Source) -> int | None:
    try:
        return len(images)
    except TypeError:
        return None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM end the job as Ctrl-C does: flushed and resumable."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
