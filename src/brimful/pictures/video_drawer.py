"""VideoDrawer: the thread that reads a video a second time and writes it with its detections.

The engine hands out detections and no pixels. Reading a video again costs a small part of what
detecting in it costs, and holds no frame for longer than it is drawn on.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Executor, Future
from contextlib import closing
from pathlib import Path
from queue import Queue
from typing import BinaryIO

import numpy as np

from brimful.detections import Detections
from brimful.errors import ImageError
from brimful.pictures.draw import draw_onto
from brimful.pictures.style import Style
from brimful.pictures.video_file import (
    DrawnFrame,
    VideoFacts,
    VideoFile,
    read_facts,
    to_yuv,
)
from brimful.sinks.atomic import whole_file
from brimful.sources.frames import read_frames
from brimful.vision.host_frame import HostFrame
from brimful.vision.pixels import Pixels

OnFrame = Callable[[Pixels, Detections], None]
"""Told the pixels of a frame before anything is drawn on them."""


class VideoDrawer:
    """Writes one video. Its thread decodes and encodes; `executor` draws."""

    def __init__(
        self,
        source: str,
        target: Path | None,
        executor: Executor,
        *,
        style: Style,
        stride: int,
        ahead: int,
        on_frame: OnFrame | None = None,
    ) -> None:
        """Start.

        Args:
            source: The video.
            target: The MP4 that appears when it is complete; None writes none.
            executor: Draws frames.
            style: What is drawn.
            stride: Every how many-th frame comes.
            ahead: Frames that are drawn at a time, at most.
            on_frame: See `OnFrame`.
        """
        self.source = source
        self.frames = 0
        """Frames that were written."""
        self.error: BaseException | None = None
        """Why there is no video; to be read after `close`."""
        self._target = target
        self._executor = executor
        self._style = style
        self._stride = stride
        self._ahead = ahead
        self._on_frame = on_frame
        self._wanted: Queue[Detections | None] = Queue(maxsize=64)
        self._given_up = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="brimful-video", daemon=True)
        self._thread.start()

    def add(self, detections: Detections) -> None:
        """Add the next frame, which has a result; wait while too many are waiting."""
        self._wanted.put(detections)

    def end(self) -> None:
        """Say that no more frames come; does not wait."""
        self._wanted.put(None)

    def close(self) -> None:
        """Wait until the video is there, or has failed: `error` says so."""
        self._thread.join()

    def abandon(self) -> None:
        """Stop, and leave nothing behind."""
        self._given_up = True
        self._wanted.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            if self._target is None:
                for future in self._drawn(matrix=None):
                    future.result()
                return
            facts = read_facts(self.source, self._stride)
            with whole_file(self._target) as file:
                self._write(file, facts)
        except BaseException as error:
            self.error = _of_the_video(error)
        finally:
            self._drain()

    def _write(self, file: BinaryIO, facts: VideoFacts) -> None:
        with (
            closing(self._drawn(matrix=facts.matrix)) as drawn,
            VideoFile(file, self.source, facts) as video,
        ):
            for future in drawn:
                frame = future.result()
                assert frame is not None
                video.write(frame)
                self.frames += 1
            video.finish()

    def _drawn(self, matrix: int | None) -> Generator[Future[DrawnFrame | None]]:
        """Yield frames in order, while those behind them are drawn."""
        waiting: deque[Future[DrawnFrame | None]] = deque()
        frames = read_frames(self.source)
        try:
            for detections in iter(self._next, None):
                if self._given_up:
                    raise _GivenUp
                for frame in frames:
                    if isinstance(frame.payload, ImageError):
                        raise frame.payload
                    if frame.number == detections.frame:
                        break
                else:
                    raise ImageError(f"the video has no frame {detections.frame} any more")
                assert isinstance(frame.payload, HostFrame)
                waiting.append(self._executor.submit(self._draw, frame.payload, detections, matrix))
                if len(waiting) > self._ahead:
                    yield waiting.popleft()
            if self._given_up:
                raise _GivenUp
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()

    def _draw(
        self, payload: HostFrame, detections: Detections, matrix: int | None
    ) -> DrawnFrame | None:
        pixels = payload.pixels()
        if self._on_frame is not None:
            self._on_frame(pixels, detections)
        if matrix is None:
            return None
        if not pixels.flags.writeable:
            pixels = np.array(pixels)
        draw_onto(pixels, detections, self._style)
        return DrawnFrame(
            planes=to_yuv(pixels, matrix),
            number=detections.frame or 0,
            pts_ms=detections.pts_ms,
            turned=payload.format.quarter_turns % 2 == 1,
        )

    def _next(self) -> Detections | None:
        """Return the next frame that is wanted, None at the end."""
        wanted = self._wanted.get()
        self._ended = wanted is None
        return wanted

    def _drain(self) -> None:
        """Take what still comes, so that nobody waits for room."""
        while not self._ended:
            self._next()


def _of_the_video(error: BaseException) -> BaseException:
    """Return what ended a video: what only FFmpeg complains of is a fault of that video."""
    if type(error).__module__.startswith("av.") and not isinstance(error, OSError):
        return ImageError(f"it cannot be written as H.264: {error}")
    return error


class _GivenUp(Exception):
    """Nobody wants the video any more."""
