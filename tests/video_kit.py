"""What the tests of videos on a device share: clips, and a device that is the host in disguise."""

from __future__ import annotations

import struct
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np

from brimful.runtimes.video import VideoRefusedError
from brimful.vision.device_frame import DeviceFrame

MATRICES = {
    90: (0, 65536, 0, -65536, 0, 0, 240 << 16, 0, 1 << 30),
    180: (-65536, 0, 0, 0, -65536, 0, 320 << 16, 240 << 16, 1 << 30),
    270: (0, -65536, 0, 65536, 0, 0, 0, 320 << 16, 1 << 30),
}
"""Display matrices of an MP4 by degrees counter-clockwise."""


def noise(count: int, size: tuple[int, int], seed: int = 0) -> Iterator[np.ndarray]:
    """Yield BGR frames of noise."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        yield rng.integers(0, 256, (*size, 3), np.uint8)


def moving(count: int, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield BGR frames of a gray that changes from one to the next, with coloured edges."""
    for number in range(count):
        frame = np.full((*size, 3), number * 7 % 256, np.uint8)
        frame[: size[0] // 8] = (200, number % 256, 30)
        frame[:, : size[1] // 8] = (10, 60, 255 - number % 256)
        yield frame


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    times: list[int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Encode frames at 25 a second, or at times of their own in milliseconds."""
    container_options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        stream: Any = None
        for number, pixels in enumerate(frames):
            if stream is None:
                stream = container.add_stream(codec, rate=25, options=options or {})
                stream.height, stream.width = pixels.shape[:2]
                stream.pix_fmt = pix_fmt
                if times is not None:
                    stream.codec_context.time_base = Fraction(1, 1000)
            frame = av.VideoFrame.from_ndarray(pixels, format="bgr24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(clip: Path, degrees: int, path: Path) -> Path:
    """Write a copy of an MP4 whose display matrix turns it."""
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", *MATRICES[degrees])
    path.write_bytes(data)
    return path


class HostVideo:
    """Plays a device that decodes videos, in host memory.

    Attributes:
        told: The (file name, reason) of every video that the CPU was left with.
        taken: Frames that came as device frames.
        most: Most device frames alive at a time.
        closed_at_work: Whether FFmpeg might work on the device when each decoder went.
    """

    def __init__(
        self,
        *,
        refuse_stream: str | None = None,
        refuse_frame: Callable[[int], bool] = lambda number: False,
    ) -> None:
        """Make the device.

        Args:
            refuse_stream: Why every stream is refused, or None.
            refuse_frame: Told how many frames of a stream were asked for before, whether to refuse
                the next.
        """
        self.told: list[tuple[str, str]] = []
        self.taken = 0
        self.most = 0
        self.closed_at_work: list[bool] = []
        self._thread = threading.local()
        self._refuse_stream = refuse_stream
        self._refuse_frame = refuse_frame
        self._alive: weakref.WeakSet[Any] = weakref.WeakSet()

    @property
    def works(self) -> bool:
        """Whether FFmpeg may work on the device now, on this thread."""
        return getattr(self._thread, "works", False)

    @property
    def alive(self) -> int:
        """Device frames whose memory is held."""
        return len(self._alive)

    def open(self, path: str) -> Any:
        """Leave decoding to FFmpeg alone."""
        return WatchedContainer(av.open(path), self)

    def start(self, stream: Any) -> Callable[[Any, int], DeviceFrame]:
        """Take every frame that is not to be refused."""
        if self._refuse_stream is not None:
            raise VideoRefusedError(self._refuse_stream)
        asked = 0

        def take(frame: Any, quarter_turns: int) -> DeviceFrame:
            nonlocal asked
            asked += 1
            if self._refuse_frame(asked - 1):
                raise VideoRefusedError(f"frame {asked - 1} of those asked for")
            self.taken += 1
            return self.device_frame(frame, quarter_turns)

        return take

    def device_frame(self, frame: Any, quarter_turns: int) -> DeviceFrame:
        """Return a device frame whose memory is an upright array."""
        memory = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="bgr24"), quarter_turns))
        held = Held(memory)
        self._alive.add(held)
        self.most = max(self.most, self.alive)
        return DeviceFrame(
            size=memory.shape[:2],
            pointer=memory.ctypes.data,
            strides=memory.strides[:2],
            nbytes=memory.nbytes,
            memory=held,
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Know of it while FFmpeg works."""
        assert not self.works, "it is not to be nested"
        self._thread.works = True
        try:
            yield
        finally:
            self._thread.works = False

    def refused(self, path: str, reason: str) -> None:
        """Note it."""
        self.told.append((Path(path).name, reason))


class WatchedContainer:
    """A container that is used as one of a device has to be."""

    def __init__(self, container: Any, device: HostVideo) -> None:
        self._container, self._device = container, device
        self.streams = SimpleNamespace(
            video=[WatchedStream(stream, device) for stream in container.streams.video]
        )
        self.format = container.format
        self._begun = False  # there was a frame: what opens the decoder is over

    def demux(self, stream: Any) -> Iterator[Any]:
        for packet in self._container.demux(stream.stream):
            assert self._device.works != self._begun
            yield SimpleNamespace(size=packet.size, decode=lambda p=packet: self._decode(p))

    def _decode(self, packet: Any) -> Any:
        assert self._device.works
        frames = packet.decode()
        self._begun |= bool(frames)
        return frames

    def close(self) -> None:
        assert self._device.works
        self._container.close()


class WatchedStream:
    """A stream that tells how its last reference went: the decoder goes with it."""

    def __init__(self, stream: Any, device: HostVideo) -> None:
        self.stream, self.frames, self._device = stream, stream.frames, device
        self.duration, self.time_base = stream.duration, stream.time_base
        self.average_rate = stream.average_rate

    def __del__(self) -> None:
        self._device.closed_at_work.append(self._device.works)


class Held:
    """An array that can be watched being freed."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels


def planar(
    size: tuple[int, int],
    seed: int = 0,
    *,
    pixels: str = "yuv420p",
    matrix: int = 1,
    value_range: int = 1,
) -> Any:
    """Return a frame whose samples are noise, every fifth or so at an end of its range."""
    rng = np.random.default_rng([seed, *size])
    frame = av.VideoFrame(size[1], size[0], pixels)
    for plane in frame.planes:
        levels = np.clip(rng.integers(-32, 288, plane.buffer_size), 0, 255)
        plane.update(levels.astype(np.uint8).tobytes())  # between the rows, too
    frame.colorspace, frame.color_range = matrix, value_range
    return frame
