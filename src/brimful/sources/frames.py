"""Frames of a video file, decoded by FFmpeg through PyAV.

A device may lend FFmpeg its decoder (`brimful.runtimes.video`). What the device refuses, and every
fault that shows up while it decodes, is for the CPU to judge: it goes on from the same frame, so
frames, numbers, times and errors are the same with a device and without.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from brimful.errors import ImageError
from brimful.extras import require
from brimful.runtimes.video import VideoDevice, VideoRefusedError
from brimful.sources.address import CAMERA
from brimful.sources.announced import announced_bytes, announced_frames, lacks
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.host_frame import HostFrame

_log = logging.getLogger("brimful")

OPENING_S = 20.0
"""Seconds that a server or a camera has until it is clear what it sends."""

SILENCE_S = 30.0
"""Seconds that a server or a camera may send nothing."""

# Containers whose index says how many frames there are; others only estimate it.
_INDEXED = "mp4"

_NO_VIDEOS = frozenset(("tty", "hls", "concat", "dash", "sdp", "image2", "imf"))
"""FFmpeg's names of what it reads as videos and is none, or lies in other files."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a video.

    Attributes:
        number: Position in the video, from 0, counted before any stride.
        pts_ms: Presentation time in milliseconds by the time base of the stream, if it has one.
        payload: The host frame with the rotation of the container applied, on the host, to be
            converted, or on the device that decoded it; None when the caller asked to leave the
            frame out, or the reason why the video ends here.
    """

    number: int
    pts_ms: float | None
    payload: HostFrame | DeviceFrame | ImageError | None


def read_frames(
    path: str,
    *,
    stride: int = 1,
    leave_out: Callable[[int], bool] = lambda number: False,
    device: VideoDevice | None = None,
    address: bool = False,
) -> Iterator[Frame]:
    """Yield every `stride`-th frame of a video, then an ImageError frame if it ends in a fault.

    Args:
        path: The video.
        stride: Every how many-th frame is yielded.
        leave_out: Told the number of a frame, decides whether its pixels are left out. The
            frame is decoded all the same, as later ones depend on it, but not converted.
        device: What decodes the video if it can; it is told when it cannot.
        address: `path` is a URL, or the device of a camera.

    Raises:
        ImageError: The video cannot be opened or holds no host frames.
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", feature="reading videos", extra="video")
    first = 0
    if device is not None:
        try:
            for frame in _on_device(av, path, stride, leave_out, device):
                yield frame
                first = frame.number + 1
            return
        except (VideoRefusedError, ImageError, EOFError, av.FFmpegError) as error:
            device.refused(path, _reason(error))
    yield from _on_host(av, path, stride, leave_out, first, address=address)


def count_frames(path: str) -> int | None:
    """Return how many frames the container says it has, None when it does not say.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", feature="reading videos", extra="video")
    try:
        with av.open(_url(path)) as container:
            return int(container.streams.video[0].frames) or None
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return None


def holds_video(path: str) -> bool:
    """Tell whether FFmpeg finds a video in a file.

    Texts are none, though FFmpeg draws some of them, and neither are playlists, which name other
    files, nor the covers of music.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    av = require("av", feature="reading videos", extra="video")
    try:
        with av.open(_url(path)) as container:
            names = container.format.name.split(",")
            if not _NO_VIDEOS.isdisjoint(names) or names[0].endswith("pipe"):  # single images
                return False
            return any(
                not stream.disposition & av.stream.Disposition.attached_pic
                for stream in container.streams.video
            )
    except (av.FFmpegError, OSError, ValueError):
        return False


def _url(path: str) -> str:
    """Return how FFmpeg has to be told a path: a name with a colon may be a protocol's to it."""
    return f"file:{path}"


def _open_address(av: Any, address: str) -> Any:
    """Open what is at an address; no server and no camera is waited for without an end."""
    if address.startswith(CAMERA):
        return av.open(address, format="video4linux2", timeout=(OPENING_S, SILENCE_S))
    # Datagrams that are lost tear frames, and firewalls let few of them through.
    options = {"rtsp_transport": "tcp"} if address.lower().startswith("rtsp") else {}
    return av.open(address, options=options, timeout=(OPENING_S, SILENCE_S))


def _on_device(
    av: Any, path: str, stride: int, leave_out: Callable[[int], bool], device: VideoDevice
) -> Iterator[Frame]:
    """Yield frames that a device decodes; raise what ends them too early."""
    container = stream = take = frame = None
    try:
        with _opened(av, _url(path), device.open, device.working) as container:
            stream = container.streams.video[0]
            take = device.start(stream)
            for number, frame in enumerate(_decode(path, container, stream, device.working)):
                if number % stride == 0:
                    payload = None if leave_out(number) else take(frame, _quarter_turns(frame))
                    yield Frame(number, _milliseconds(frame), payload)
    finally:
        with device.working():
            del container, stream, take, frame  # the decoder goes with them


def _on_host(
    av: Any,
    path: str,
    stride: int,
    leave_out: Callable[[int], bool],
    first: int,
    *,
    address: bool,
) -> Iterator[Frame]:
    """Yield frames from the number `first` on, and the fault that ends them, if any."""
    open_ = functools.partial(_open_address, av) if address else av.open
    with _opened(av, path if address else _url(path), open_) as container:
        stream = container.streams.video[0]
        # Threads that decode a frame each keep as many frames back, of a stream until more come.
        stream.thread_type = "SLICE" if address else "AUTO"
        number = -1
        try:
            for number, frame in enumerate(_decode(path, container, stream, address=address)):
                if number >= first and number % stride == 0:
                    payload = None if leave_out(number) else HostFrame(frame, _quarter_turns(frame))
                    yield Frame(number, _milliseconds(frame), payload)
        except (av.FFmpegError, EOFError) as error:
            good = max(number + 1, first)
            what = "stream broke off" if address else "video is damaged"
            reason = f"the {what} after {good} frames: {_reason(error)}"
            yield Frame(good, None, ImageError(reason))


@contextmanager
def _opened(
    av: Any,
    url: str,
    open_: Callable[[str], Any],
    working: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Any]:
    """Open a container that holds a video stream."""
    try:
        container = open_(url)
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"the video cannot be opened: {_reason(error)}") from None
    try:
        if not container.streams.video:
            raise ImageError("the file holds no video stream")
        yield container
    finally:
        with working():
            container.close()


def _decode(
    path: str,
    container: Any,
    stream: Any,
    working: Callable[[], AbstractContextManager[None]] = nullcontext,
    *,
    address: bool = False,
) -> Iterator[Any]:
    """Yield decoded frames; raise EOFError when the data ends before the container's index.

    Where the container only estimates its length, less is a warning in the log.
    """
    packets, decoded, begun = 0, 0, False
    first: float | None = None
    last = 0.0
    with ExitStack() as beginning:
        # Threads of FFmpeg's open the decoder, at some time before there is a frame.
        beginning.enter_context(working())
        for packet in container.demux(stream):
            packets += packet.size > 0
            with working() if begun else nullcontext():
                frames = packet.decode()
            if frames and not begun:
                begun = True
                beginning.close()
            if frames:
                first = frames[0].time if first is None else first
                last = frames[-1].time
                decoded += len(frames)
            yield from frames
    # FFmpeg takes a file cut in its middle for a short one and says nothing.
    if _INDEXED in container.format.name and packets < stream.frames:
        raise EOFError(f"the file is truncated, its index lists {stream.frames} frames")
    if address:  # there is no file to compare with
        return
    expected = announced_frames(container, stream)
    of = f" of about {expected:,}" if expected else ""
    size, announced = os.path.getsize(path), announced_bytes(path)  # noqa: PTH202
    cut = announced is not None and size < announced
    if cut and (expected is None or decoded < expected):
        raise EOFError(
            f"the file is truncated, it has {decoded:,}{of} frames in {size:,} bytes of "
            f"{announced:,}"
        )
    if cut or (first is not None and lacks(container, stream, last - first)):
        what = "is truncated" if cut else "ends early"
        _log.warning("%s %s: %d%s frames that its container announces", path, what, decoded, of)


def _quarter_turns(frame: Any) -> int:
    """Return how often a frame is turned, counter-clockwise, by the container's display matrix.

    OpenCV applies it too.
    """
    return round(getattr(frame, "rotation", 0) / 90) % 4


def _milliseconds(frame: Any) -> float | None:
    if frame.pts is None or frame.time_base is None:
        return None
    return float(frame.pts * frame.time_base * 1000)


def _reason(error: Exception) -> str:
    if type(error).__name__ == "ExitError":  # FFmpeg's word for a timeout of PyAV's
        return f"nothing came for {SILENCE_S:.0f} s"
    return str(getattr(error, "strerror", None) or error)
