"""Frames of a video file, decoded by FFmpeg through PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from brimful.errors import ImageError
from brimful.extras import require
from brimful.sources.image import Pixels

# Containers whose index says how many frames there are; others only estimate it.
_INDEXED = "mp4"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video.

    Attributes:
        number: Position in the video, from 0, counted before any stride.
        pts_ms: Presentation time in milliseconds by the time base of the stream, if it has one.
        payload: BGR pixels with the rotation of the container applied, None when the caller
            asked to leave the frame out, or the reason why the video ends here.
    """

    number: int
    pts_ms: float | None
    payload: Pixels | ImageError | None


def read_frames(
    path: str, *, stride: int = 1, leave_out: Callable[[int], bool] = lambda number: False
) -> Iterator[Frame]:
    """Yield every `stride`-th frame of a video, then an ImageError frame if it ends in a fault.

    Args:
        path: The video.
        stride: Every how many-th frame is yielded.
        leave_out: Told the number of a frame, decides whether its pixels are left out. The
            frame is decoded all the same, as later ones depend on it, but not converted.

    Raises:
        ImageError: The video cannot be opened or holds no pictures.
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", feature="reading videos", extra="video")
    try:
        container = av.open(path)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"the video cannot be opened: {_reason(error)}") from None
    with container:
        if not container.streams.video:
            raise ImageError("the file holds no video stream")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        number = -1
        try:
            for number, frame in enumerate(_decode(container, stream)):
                if number % stride == 0:
                    payload = None if leave_out(number) else _pixels(frame)
                    yield Frame(number, _milliseconds(frame), payload)
        except (av.FFmpegError, EOFError) as error:
            reason = f"the video is damaged after {number + 1} frames: {_reason(error)}"
            yield Frame(number + 1, None, ImageError(reason))


def count_frames(path: str) -> int | None:
    """Return how many frames the container says it has, None when it does not say.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", feature="reading videos", extra="video")
    try:
        with av.open(path) as container:
            return int(container.streams.video[0].frames) or None
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return None


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Yield decoded frames; raise EOFError when the data ends before the container's index."""
    packets = 0
    for packet in container.demux(stream):
        packets += packet.size > 0
        yield from packet.decode()
    # FFmpeg takes a file cut in its middle for a short one and says nothing.
    if _INDEXED in container.format.name and packets < stream.frames:
        raise EOFError(f"the file is truncated, its index lists {stream.frames} frames")


def _pixels(frame: Any) -> Pixels:
    pixels: Pixels = frame.to_ndarray(format="bgr24")
    # Degrees counter-clockwise, from the display matrix of the container; OpenCV applies it too.
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4
    if quarter_turns:
        return np.ascontiguousarray(np.rot90(pixels, quarter_turns))
    return pixels


def _milliseconds(frame: Any) -> float | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return float(frame.pts * frame.time_base * 1000)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
