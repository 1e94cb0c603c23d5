"""The decode stage: workers that bring admitted images into slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from brimful.engine.inflight import InFlight
from brimful.engine.intake import Intake
from brimful.engine.open_batches import Joined, OpenBatches, Ready
from brimful.engine.preprocess import HostPreprocess
from brimful.engine.stats import StageStats
from brimful.engine.turn import Turn, turns
from brimful.engine.work import Work
from brimful.errors import ImageError
from brimful.spec import ModelSpec, Size


class DecodeStage:
    """Reads and decodes images, and writes them into the open batches of their canvases.

    A worker takes a chunk of images. Those that the device decodes are only read, and join their
    batches together; one that is decoded here goes on as soon as it is decoded.
    """

    def __init__(
        self,
        preprocess: HostPreprocess,
        intake: Intake,
        batches: OpenBatches,
        inflight: InFlight,
        spec: ModelSpec,
        stats: StageStats,
        *,
        workers: int,
        chunk: int,
        on_written: Callable[[list[Joined]], None],
        on_death: Callable[[str, BaseException], None],
    ) -> None:
        """Put the stage together; `loop` is run by each worker.

        Args:
            preprocess: Decodes and letterboxes.
            intake: Where images come from.
            batches: What they join.
            inflight: Settles bad images.
            spec: The model.
            stats: Told how long the stage worked.
            workers: Threads that will run `loop`.
            chunk: Images that a worker takes at a time at most.
            on_written: Told what has been written, which may be due now.
            on_death: Told when writing fails, which is nobody's fault but the stage's.
        """
        self._preprocess = preprocess
        self._intake = intake
        self._batches = batches
        self._inflight = inflight
        self._spec = spec
        self._stats = stats
        self._chunk = chunk
        self._on_written = on_written
        self._on_death = on_death
        self._workers = workers
        self._readers = min(workers, turns(workers)) if preprocess.reads else workers
        self._turns = threading.Semaphore(self._readers)

    def loop(self) -> None:
        """Work until the intake is closed."""
        turn = Turn(self._turns)
        try:
            while True:
                # Who kept the turn only reads, and shares what waits with those that do so too;
                # who gave it away decodes, and leaves some to every other worker.
                sharers = self._readers if turn.take() else self._workers
                taken = self._intake.take(self._chunk, sharers)
                if taken is None:
                    return
                works, expired = taken
                if expired:
                    late = "its deadline passed before it was decoded"
                    self._settle([(work, late) for work in expired])
                self._prepare(works, turn)
                del taken, works, expired  # a waiting thread keeps no image alive
        finally:
            turn.give()

    def _prepare(self, works: list[Work], turn: Turn) -> None:
        """Decode images and bring them into slots; a bad image settles its own result."""
        preprocess = self._preprocess
        waiting: dict[Size, list[Ready]] = {}
        bad: list[tuple[Work, str]] = []
        started = time.perf_counter()
        files = preprocess.read([work.image for work in works])
        for work, file in zip(works, files, strict=True):
            try:
                image = preprocess.decode(work.image, file, turn.give)
            except ImageError as error:
                bad.append((work, str(error)))
                continue
            work.geometry = geometry = preprocess.place(image)
            images = waiting.get(geometry.canvas)
            if images is None:
                waiting[geometry.canvas] = [(work, image)]
            else:
                images.append((work, image))
            if isinstance(image, np.ndarray):  # pixels are many: no more than one image's
                turn.give()  # the letterbox needs no interpreter either
                self._stats.add("decode", time.perf_counter() - started)
                del image, images
                self._write(waiting)
                started = time.perf_counter()
        self._stats.add("decode", time.perf_counter() - started)
        if bad:
            self._settle(bad)
        if waiting:
            self._write(waiting)

    def _write(self, waiting: dict[Size, list[Ready]]) -> None:
        """Bring images into slots as there are any; what is left when closed has failed."""
        while waiting and (joined := self._batches.join(waiting)):
            started = time.perf_counter()
            try:
                for part in joined:
                    for position, (work, image) in enumerate(part.images, part.position):
                        assert work.geometry is not None
                        self._preprocess.write(image, work.geometry, part.slot, position)
            except BaseException as error:
                waiting.clear()
                self._on_death("preprocess", error)
                return
            self._stats.add("preprocess", time.perf_counter() - started)
            self._on_written(joined)
            del joined, part, work, image
        waiting.clear()

    def _settle(self, bad: list[tuple[Work, str]]) -> None:
        results = [work.failed(self._spec, error) for work, error in bad]
        self._inflight.settle([work for work, _ in bad], results)
