"""Feeding: the images of one job on their way into the engine, on a thread of their own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Protocol

from brimful.engine.payload import bytes_held
from brimful.engine.request import Request
from brimful.engine.responders import StreamResponder
from brimful.engine.stats import StageStats
from brimful.engine.stream import ResultStream
from brimful.runtimes.video import VideoDevice
from brimful.sources.image import SourceImage
from brimful.sources.source import chunks_of
from brimful.vision.heads.config import PostprocessConfig


class Admit(Protocol):
    """Takes requests in; see `Scheduler.admit`."""

    def __call__(self, requests: Sequence[Request], *, wait: bool) -> int:
        """Return how many were taken."""
        ...


class Feeding:
    """Brings the images of a source in, as far as the stream's window allows."""

    def __init__(
        self,
        images: Iterable[SourceImage],
        stream: ResultStream,
        admit: Admit,
        cost: int,
        stats: StageStats,
        params: PostprocessConfig | None = None,
    ) -> None:
        """Prepare; `run` does it.

        Args:
            images: The source.
            stream: Gets the results, or why there are none.
            admit: Takes requests in.
            cost: Pixels of the full canvas.
            stats: Told how long the source took.
            params: What becomes a detection, where an image has no setting of its own; None for
                the engine's setting.
        """
        self._images = images
        self._stream = stream
        self._admit = admit
        self._cost = cost
        self._stats = stats
        self._params = params
        self._responder = StreamResponder(stream)

    def run(self, video: VideoDevice | None) -> None:
        """Feed until the source ends or nobody wants more.

        Args:
            video: What decodes videos on the device, if it can.
        """
        try:
            chunks = chunks_of(self._images, video)
            while True:
                started = time.perf_counter()
                chunk = next(chunks, None)
                self._stats.add("source", time.perf_counter() - started)
                if chunk is None:
                    break
                if not self._feed(chunk):
                    return
            self._stream.end()
        except BaseException as error:
            self._stream.end(error)

    def _feed(self, chunk: list[SourceImage]) -> bool:
        """Bring some images in; return False when no more are wanted."""
        stream, responder, source, cost, params = (
            self._stream,
            self._responder,
            id(self._stream),
            self._cost,
            self._params,
        )
        while chunk:
            numbers = stream.enter(len(chunk))
            if numbers is None:
                return False
            requests = [
                Request(
                    image,
                    responder,
                    source,
                    number,
                    params=image.params or params,
                    cost=cost,
                    nbytes=bytes_held(image),
                )
                for image, number in zip(chunk, numbers, strict=False)
            ]
            chunk = chunk[len(numbers) :]
            try:
                self._admit(requests, wait=True)
            except BaseException as error:
                stream.fail(error)
                return False
            del requests  # a feeder that waits keeps no image alive
        return True
