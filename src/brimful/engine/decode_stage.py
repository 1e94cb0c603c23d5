"""The decode stage: workers that bring admitted images into slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from brimful.engine.batches import Joined, Ready, SlotError
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.read_permit import ReadPermit, permits
from brimful.engine.request import Request
from brimful.engine.scheduler import Scheduler
from brimful.engine.stats import StageStats
from brimful.errors import BrimfulError
from brimful.spec import Size

Failed = tuple[Request, str]
"""A request whose image cannot be decoded or written, and why."""


class DecodeStage:
    """Reads and decodes images, and writes them into the open batches of their canvases.

    A worker takes a chunk of images. Those that the device decodes are only read, and join their
    batches together; one that is decoded here goes on as soon as it is decoded. Whatever goes
    wrong with an image is that image's own result.
    """

    def __init__(
        self,
        preprocess: HostPreprocess,
        scheduler: Scheduler,
        stats: StageStats,
        *,
        workers: int,
        chunk: int,
        on_dropped: Callable[[Sequence[Request]], None],
        on_bad: Callable[[Sequence[Failed]], None],
        on_no_slot: Callable[[Sequence[Request], SlotError], None],
        on_written: Callable[[Sequence[Joined]], None],
    ) -> None:
        """Put the stage together; `loop` is run by each worker.

        Args:
            preprocess: Decodes and letterboxes.
            scheduler: Where requests come from, and the batches that they join.
            stats: Told how long the stage worked.
            workers: Threads that will run `loop`.
            chunk: Images that a worker takes at a time at most.
            on_dropped: Told of requests that nobody wants any more, or that are too late.
            on_bad: Told of requests whose image is bad.
            on_no_slot: Told of requests for whose canvas there is no memory.
            on_written: Told what has been written, which may be due now.
        """
        self._preprocess = preprocess
        self._scheduler = scheduler
        self._stats = stats
        self._chunk = chunk
        self._on_dropped = on_dropped
        self._on_bad = on_bad
        self._on_no_slot = on_no_slot
        self._on_written = on_written
        self._workers = workers
        self._readers = min(workers, permits(workers)) if preprocess.reads else workers
        self._permits = threading.Semaphore(self._readers)

    def loop(self) -> None:
        """Work until the scheduler is stopped."""
        permit = ReadPermit(self._permits)
        try:
            while True:
                # Who kept the permit only reads, and shares what waits with those that do so too;
                # who gave it away decodes, and leaves some to every other worker.
                sharers = self._readers if permit.acquire() else self._workers
                taken = self._scheduler.take(self._chunk, sharers)
                if taken is None:
                    return
                requests, dropped = taken
                if dropped:
                    self._on_dropped(dropped)
                if requests:
                    self._prepare(requests, permit)
                del taken, requests, dropped  # a waiting thread keeps no image alive
        finally:
            permit.release()

    def _prepare(self, requests: list[Request], permit: ReadPermit) -> None:
        """Decode images and bring them into slots."""
        preprocess = self._preprocess
        waiting: dict[Size, list[Ready]] = {}
        bad: list[Failed] = []
        started = time.perf_counter()
        files = preprocess.read([request.image for request in requests])
        for request, file in zip(requests, files, strict=True):
            try:
                image = preprocess.decode(request.image, file, permit.release)
                request.geometry = geometry = preprocess.place(image)
            except Exception as error:
                bad.append((request, explain(error)))
                continue
            images = waiting.get(geometry.canvas)
            if images is None:
                waiting[geometry.canvas] = [(request, image)]
            else:
                images.append((request, image))
            if isinstance(image, np.ndarray):  # pixels are many: no more than one image's
                permit.release()  # the letterbox needs no interpreter either
                self._stats.add("decode", time.perf_counter() - started)
                del image, images
                self._write(waiting)
                started = time.perf_counter()
        self._stats.add("decode", time.perf_counter() - started)
        if bad:
            self._on_bad(bad)
        if waiting:
            self._write(waiting)

    def _write(self, waiting: dict[Size, list[Ready]]) -> None:
        """Bring images into slots as there are any; what is left when stopped has failed."""
        while waiting:
            try:
                joined = self._scheduler.join(waiting)
            except SlotError as error:
                self._on_no_slot([request for request, _ in waiting.pop(error.canvas)], error)
                continue
            if not joined:
                break
            started = time.perf_counter()
            bad = self._write_joined(joined)
            self._stats.add("preprocess", time.perf_counter() - started)
            if bad:
                self._on_bad(bad)
            self._on_written(joined)
            del joined
        waiting.clear()

    def _write_joined(self, joined: Sequence[Joined]) -> list[Failed]:
        """Write images into their rows; return those that could not be."""
        bad: list[Failed] = []
        write = self._preprocess.write
        for part in joined:
            for position, (request, image) in enumerate(part.images, part.position):
                assert request.geometry is not None
                try:
                    write(image, request.geometry, part.slot, position)
                except Exception as error:  # its row holds anything, and runs without an owner
                    bad.append((request, explain(error)))
        return bad


def explain(error: Exception) -> str:
    """Return what an image's error row says of an exception."""
    if isinstance(error, BrimfulError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"there is not enough memory for this image ({error or 'MemoryError'})"
    return f"{type(error).__name__}: {error}"
