"""EnginePool: one engine process per device, one shared work queue, one ordered output."""

from __future__ import annotations

import atexit
import pickle
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from brimful.cluster.allowance import Allowance
from brimful.cluster.arena import Arena
from brimful.cluster.child import encode
from brimful.cluster.dispatcher import LINGER_S, Dispatcher
from brimful.cluster.encoded import EncodedResults
from brimful.cluster.engine_process import EngineProcess
from brimful.cluster.job import Answer, Job
from brimful.cluster.messages import Ready, Results
from brimful.cluster.packing import Packed
from brimful.cluster.reports import merge_reports
from brimful.cluster.start_engine import StartEngine
from brimful.cluster.work_queue import WorkQueue
from brimful.detections import Detections, failed_detections
from brimful.engine.engine import EngineReport
from brimful.errors import UsageError
from brimful.sources.open_source import open_source
from brimful.sources.source import Source, chunks_of
from brimful.spec import ModelSpec

ARENA_BYTES = 256 * 2**20
"""Images in memory on their way, per process, in bytes: what an engine's own queue holds."""

CHUNK = 64
"""Images in a message at most: enough that a message's cost vanishes."""

TARGET_S = 1.0
"""Seconds that an image may take through a process before that process is handed fewer."""

CLOSE_TIMEOUT_S = 5.0
FEEDER_TIMEOUT_S = 2.0  # it may wait for input that never comes, and ends with the process
REPORT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class PoolRuntime:
    """What the processes run the model with.

    Attributes:
        name: The registry's name of the runtime.
    """

    name: str


class EnginePool:
    """Engines on several devices, a process each; the face of `brimful.Engine` for whole sources.

    The parent never touches a device. Processes take images as they have room, so the faster one
    does more. One that dies loses no image: the others run what it held. An image with which a
    second process dies gets an error. The pool stops when no process is left.

    Example:
        >>> start = functools.partial(brimful.load, "yolo26n.pt", precision="fp16")
        >>> with EnginePool(start, parse_devices("0,1")) as pool:
        ...     for detections in pool.predict("photos/"):
        ...         ...
    """

    def __init__(
        self,
        start: StartEngine,
        devices: Sequence[str],
        *,
        first_alone: bool = False,
        arena_bytes: int = ARENA_BYTES,
    ) -> None:
        """Start the processes and wait until every engine runs.

        Args:
            start: Starts the engine of a device, in its process.
            devices: One process each.
            first_alone: The others load when the first has loaded: so that what it puts into the
                artifact cache is not built once per process.
            arena_bytes: Bytes of images in memory on their way, per process.

        Raises:
            UsageError: There is no device.
            BrimfulError: What starting an engine raised.
            EngineStoppedError: A process ended while it loaded.
        """
        if not devices:
            raise UsageError("an engine pool needs at least one device")
        self.devices = tuple(devices)
        self._source_s = self._sink_s = 0.0
        self._started = time.perf_counter()
        self._closing = threading.Lock()
        self._arena = Arena(arena_bytes * len(devices))
        processes: list[EngineProcess] = []
        try:
            ready = _start(processes, start, devices, self._arena, first_alone=first_alone)
        except BaseException:
            for process in processes:
                process.kill()
                process.close()
            self._arena.close()
            raise
        self.pids = tuple(process.pid or 0 for process in processes)
        self.spec: ModelSpec = ready.spec
        self.runtime = PoolRuntime(ready.runtime)
        self._description = ready.description
        batch = int(ready.description["batch"])
        # More than any engine takes in: its queue, and every slot twice.
        most = 256 + 32 * batch
        self.chunk = min(CHUNK, max(8, batch))
        self.window = 4 * most * len(devices)
        least = 4 * max(batch, self.chunk)
        self._dispatcher = Dispatcher(
            processes,
            self._arena,
            lambda: Allowance(least=least, most=max(least, most), target_s=TARGET_S),
        )
        atexit.register(self.close)

    def __enter__(self) -> EnginePool:
        """Return the pool itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self.close()

    def predict(self, source: object) -> Iterator[Detections]:
        """Run every image of a source; see `stream`.

        Yields:
            The detections of each image, in the source's order; a bad image has `error` set.
        """
        for results in self.stream(source):
            yield from results

    def stream(self, source: object) -> Iterator[list[Detections]]:
        """Run every image of a source, handing out whatever is ready at a time.

        Args:
            source: Anything `open_source` takes, or a Source. It is closed at the end.

        Yields:
            Detections in the source's order, in lists of at least one.

        Raises:
            UsageError: There is no such source, or nothing in it.
            EngineStoppedError: The pool was closed, runs another source, or has no process left.
        """
        for _, body in self._answers(source, encoded=False):
            results: list[Detections] = pickle.loads(body)
            yield results

    def stream_encoded(self, source: object) -> Iterator[EncodedResults]:
        """Run every image of a source; the processes encode the results.

        It costs the parent half of what `stream` does, which makes objects of every image, and the
        encoding nothing (benchmarks/results/pool_overhead.json). Arguments and errors are those of
        `stream`.

        Yields:
            JSON lines in the source's order, of at least one image.
        """
        for results, body in self._answers(source, encoded=True):
            yield EncodedResults(results.count, results.failures, results.found, body)

    @property
    def health(self) -> str:
        """`ok`, or which processes died and why."""
        return "; ".join(self._dispatcher.deaths) or "ok"

    def reset_stats(self) -> None:
        """Start measuring anew."""
        self._source_s = self._sink_s = 0.0
        self._started = time.perf_counter()
        self._dispatcher.reset_stats()

    def report(self) -> EngineReport:
        """Return how the stages spent their time since the start or the last reset.

        Stages are summed over the processes that are alive.
        """
        elapsed = time.perf_counter() - self._started
        return merge_reports(
            self._dispatcher.reports(REPORT_TIMEOUT_S),
            source_s=self._source_s,
            sink_s=self._sink_s,
            elapsed_s=elapsed,
        )

    def describe(self) -> dict[str, str | int]:
        """Return what decides speed and results: an engine's, and the devices.

        Threads and workers are those of one process.
        """
        return {**self._description, "devices": " ".join(self.devices)}

    def close(self) -> None:
        """Stop every process; what is in flight fails. Returns when all have ended."""
        atexit.unregister(self.close)
        with self._closing:
            self._dispatcher.close(CLOSE_TIMEOUT_S)
            self._arena.close()

    def _answers(self, source: object, *, encoded: bool) -> Iterator[Answer]:
        images = source if isinstance(source, Source) else open_source(source)
        queue: WorkQueue[Packed, Answer] = WorkQueue(
            window=self.window, chunk=self.chunk, linger_s=LINGER_S
        )

        def lost(item: Packed, reason: str) -> Answer:
            index, key, frame, pts_ms, _ = item
            error = f"its engine process died twice: {reason}"
            result = failed_detections(
                self.spec, key, index, "runtime", error, frame=frame, pts_ms=pts_ms
            )
            return Results(0, 1, 1, 0), encode([result], encoded=encoded)

        job = Job(encoded, lost, queue)
        feeder = threading.Thread(
            target=self._feed, args=(images, job), name="brimful-source", daemon=True
        )
        try:
            self._dispatcher.begin(job)
            feeder.start()
            while (answer := self._dispatcher.answer(job)) is not None:
                started = time.perf_counter()
                yield answer
                self._sink_s += time.perf_counter() - started
        finally:
            self._dispatcher.finish(job)
            close = getattr(images, "close", None)
            if close is not None:
                close()
            if feeder.ident is not None:
                feeder.join(FEEDER_TIMEOUT_S)

    def _feed(self, images: Source, job: Job) -> None:
        """Bring a source's images in, on a thread of its own."""
        clock, feed = time.perf_counter, self._dispatcher.feed
        try:
            chunks = chunks_of(images)
            while True:
                started = clock()
                chunk = next(chunks, None)
                self._source_s += clock() - started
                if chunk is None:
                    break
                if not feed(job, chunk):
                    return
            self._dispatcher.end(job)
        except BaseException as error:
            self._dispatcher.end(job, error)


def _start(
    processes: list[EngineProcess],
    start: StartEngine,
    devices: Sequence[str],
    arena: Arena,
    *,
    first_alone: bool,
) -> Ready:
    """Start the processes into a list, so that the caller can end them; wait for all engines."""
    ready: list[Ready] = []
    for device in devices:
        processes.append(EngineProcess(start, device, arena))
        if first_alone and not ready:
            ready.append(processes[0].await_ready())
    ready += [process.await_ready() for process in processes[len(ready) :]]
    return ready[0]
