"""What runs in an engine process: one engine, fed from a pipe.

The process lives as long as its parent holds the other end of the pipe, however the parent ends.
Signals that a terminal or a service manager sends to all processes are the parent's to answer.
"""

from __future__ import annotations

import functools
import os
import pickle
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from brimful.cluster.arena import Arena
from brimful.cluster.messages import (
    Answered,
    AskReport,
    Died,
    Failed,
    FromEngine,
    FromParent,
    Ready,
    Report,
    ResetStats,
    Results,
    Submit,
    WarmedUp,
    WarmUp,
    Work,
    travelling,
)
from brimful.cluster.packing import unpack
from brimful.cluster.start_engine import StartEngine
from brimful.detections import Detections
from brimful.engine.encoded import count_failures
from brimful.engine.engine import Engine
from brimful.engine.interpreter import prepare_interpreter
from brimful.errors import DeviceFailedError, EngineStoppedError
from brimful.native.json_lines import open_encoder
from brimful.sources.image import SourceImage

_LEAVE_S = 2.0
"""Seconds that an engine has to close before the process ends anyway."""


def serve(
    start: StartEngine,
    device: str,
    arena: Arena,
    commands: Connection[Any, Any],
    answers: Connection[Any, Any],
) -> None:
    """Run an engine until the parent is gone or has no more use for it.

    Args:
        start: Starts the engine.
        device: What it is started on.
        arena: Where images in memory are.
        commands: Messages of the parent.
        answers: Messages to the parent.
    """
    _leave_signals_to_the_parent()
    _Child(arena, commands, answers).run(start, device)


class _Child:
    def __init__(
        self, arena: Arena, commands: Connection[Any, Any], answers: Connection[Any, Any]
    ) -> None:
        self._commands = commands
        self._answers = answers
        self._sending = threading.Lock()
        self._arena = arena
        self._chunks = _Chunks(arena)
        self._requests: queue.SimpleQueue[Submit] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._leaving = False

    def run(self, start: StartEngine, device: str) -> None:
        listener = threading.Thread(target=self._listen, name="brimful-commands", daemon=True)
        listener.start()
        try:
            engine = start(device=device)
            prepare_interpreter()
        except BaseException as error:
            self._send(Failed(travelling(error)))
            return
        with engine:
            self._engine = engine
            threading.Thread(
                target=self._run_requests, args=(engine,), name="brimful-requests", daemon=True
            ).start()
            config = engine.config
            self._send(
                Ready(
                    engine.spec, engine.describe(), config.postprocess, config.queue, engine.imgsz
                )
            )
            try:
                waiting: list[Detections] = []
                for results in engine.stream(self._chunks):
                    waiting += results
                    self._send_complete(waiting)
            except BaseException as error:
                self._die(error)
            listener.join()  # it closes the engine

    def _send_complete(self, waiting: list[Detections]) -> None:
        """Send every chunk whose results are there; the engine keeps the order."""
        begun = self._chunks.begun
        while begun and len(waiting) >= len(begun[0].items):
            work = begun.popleft()
            done = waiting[: len(work.items)]
            del waiting[: len(work.items)]
            results = Results(
                chunk=work.chunk,
                count=len(done),
                failures=count_failures(done),
                found=sum(map(len, done)),
            )
            self._send(results, encode(done, encoded=work.encoded))

    def _listen(self) -> None:
        """Take the parent's messages, until there is none."""
        try:
            while True:
                message: FromParent = pickle.loads(self._commands.recv_bytes())
                if isinstance(message, Work):
                    self._chunks.put(message)
                elif isinstance(message, Submit):
                    self._requests.put(message)
                elif self._engine is not None:
                    if isinstance(message, ResetStats):
                        self._engine.reset_stats()
                    elif isinstance(message, AskReport):
                        self._send(Report(self._engine.report()))
                    else:
                        threading.Thread(
                            target=self._warm_up, args=(self._engine, message), daemon=True
                        ).start()
        except (EOFError, OSError):
            pass
        self._leaving = True
        if self._engine is None:  # nothing to close, and loading cannot be interrupted
            os._exit(0)
        timer = threading.Timer(_LEAVE_S, os._exit, (0,))
        timer.daemon = True
        timer.start()
        self._chunks.close()
        self._engine.close()  # what is in flight fails, and with it the stream

    # Submitted images, on a thread of their own: it may wait for room in the engine ------------

    def _run_requests(self, engine: Engine) -> None:
        try:
            while True:
                self._submit(engine, self._requests.get())
        except BaseException as error:
            self._die(error)

    def _submit(self, engine: Engine, message: Submit) -> None:
        image = unpack(message.item, self._arena)
        params, deadline = message.params, message.deadline
        future = engine.submit(
            image.payload,
            key=image.key,
            client=("client", message.client),
            conf=None if params is None else params.conf,
            iou=None if params is None else params.iou,
            max_det=None if params is None else params.max_det,
            classes=None if params is None else params.classes,
            priority=message.priority,
            deadline_ms=None if deadline is None else (deadline - time.monotonic()) * 1000,
            copy=False,  # the parent leaves it alone until it has the answer
        )
        future.add_done_callback(functools.partial(self._answer, message.number))

    def _answer(self, number: int, future: Future[Detections]) -> None:
        error = future.exception()
        if error is None:
            self._send(Answered(number, future.result()))
        else:
            self._die(error)

    def _warm_up(self, engine: Engine, message: WarmUp) -> None:
        try:
            self._send(WarmedUp(engine.warm_up(message.canvases), None))
        except EngineStoppedError as error:
            self._die(error)
        except BaseException as error:
            self._send(WarmedUp([], travelling(error)))

    # Messages ---------------------------------------------------------------------------------

    def _send(self, message: FromEngine, body: bytes | None = None) -> None:
        try:
            with self._sending:
                self._answers.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
                if body is not None:
                    self._answers.send_bytes(body)
        except BrokenPipeError:  # the parent is gone
            os._exit(0)

    def _die(self, error: BaseException) -> None:
        """Say that the engine stopped, as the last word, and end the process.

        It ends at once: a device that failed may not let the engine close.
        """
        if self._leaving:
            return
        broken = isinstance(error, DeviceFailedError)
        text = str(error) if broken else f"{type(error).__name__}: {error}"
        self._send(Died(text, device=broken))
        os._exit(1)


class _Chunks:
    """A source of the images that the parent sends; without end, as long as the parent lives."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self.begun: deque[Work] = deque()

    def put(self, work: Work) -> None:
        self._queue.put(work)

    def __iter__(self) -> Iterator[SourceImage]:
        for images in self.chunks():
            yield from images

    def chunks(self) -> Iterator[list[SourceImage]]:
        while (work := self._queue.get()) is not None:
            self.begun.append(work)
            images = [unpack(item, self._arena) for item in work.items]
            if work.params is not None:
                for image in images:
                    image.params = work.params
            yield images

    def __len__(self) -> int:
        raise TypeError("more may come")

    def close(self) -> None:
        self._queue.put(None)


def encode(results: Sequence[Detections], *, encoded: bool) -> bytes:
    """Return the body of Results: JSON lines, or the pickled list."""
    if encoded:
        return open_encoder()(results)
    return pickle.dumps(list(results), pickle.HIGHEST_PROTOCOL)


def _leave_signals_to_the_parent() -> None:
    """Ignore what the parent answers, in a way that programs started from here do not inherit."""

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        signal.signal(number, ignore)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
