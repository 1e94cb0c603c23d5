"""HostFrame: a frame of a video as FFmpeg has decoded it, not converted yet.

The thread that reads a video decides how fast it can be; converting costs it as much as all the
rest of its work. So whoever needs the pixels converts them: a device that takes the planes as they
are, or a thread of its own.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from brimful.errors import ImageError
from brimful.spec import Size

_mine = threading.local()


class HostFrameFormat(NamedTuple):
    """What the numbers in a host frame's planes mean, the same for all frames of most videos.

    Attributes:
        pixels: FFmpeg's name of the pixel format, such as `yuv420p`.
        stored: (height, width) as the planes have it.
        matrix: FFmpeg's number of the colour matrix (`AVColorSpace`, which is that of H.273).
        value_range: FFmpeg's number of the range of values (`AVColorRange`).
        interlaced: Whether rows belong to two times.
        quarter_turns: Counter-clockwise, after which it is upright.
    """

    pixels: str
    stored: Size
    matrix: int
    value_range: int
    interlaced: bool
    quarter_turns: int


class Plane(NamedTuple):
    """Samples of a host frame in memory.

    Attributes:
        address: Of the first one.
        pitch: Bytes from row to row.
    """

    address: int
    pitch: int


class HostFrame:
    """A decoded frame on the host. Any thread may convert it."""

    __slots__ = ("_frame", "_planes", "_quarter_turns", "nbytes")

    def __init__(self, frame: Any, quarter_turns: int) -> None:
        """Keep a frame.

        Args:
            frame: An `av.VideoFrame`.
            quarter_turns: Counter-clockwise, after which it is upright.
        """
        self._frame = frame
        self._quarter_turns = quarter_turns
        self._planes = frame.planes
        self.nbytes = sum(plane.buffer_size for plane in self._planes)
        """Bytes of memory that it holds."""

    @property
    def size(self) -> Size:
        """(height, width) as it is meant to be seen."""
        frame = self._frame
        if self._quarter_turns % 2:
            return frame.width, frame.height
        return frame.height, frame.width

    @property
    def format(self) -> HostFrameFormat:
        """What its planes hold."""
        frame = self._frame
        return HostFrameFormat(
            frame.format.name,
            (frame.height, frame.width),
            int(frame.colorspace),
            int(frame.color_range),
            frame.interlaced_frame,
            self._quarter_turns,
        )

    @property
    def planes(self) -> list[Plane]:
        """Where its samples are, for as long as it lives."""
        return [Plane(plane.buffer_ptr, plane.line_size) for plane in self._planes]

    def pixels(self) -> NDArray[np.uint8]:
        """Return the pixels, uint8 (height, width, 3) in BGR order, upright.

        Raises:
            ImageError: FFmpeg cannot convert its pixel format.
        """
        import av  # which is there: it has made the frame

        try:
            # One for all frames of a thread: each of its own would set FFmpeg's scaler up anew,
            # with a thread for every CPU, which takes longer than the decoding.
            converter = _mine.converter
        except AttributeError:
            converter = _mine.converter = av.video.reformatter.VideoReformatter()
        try:
            # Bicubic, as OpenCV's VideoCapture: it decides the chroma of odd sides, and more.
            converted = converter.reformat(
                self._frame, format="bgr24", interpolation="BICUBIC", threads=1
            )
        except (av.FFmpegError, ValueError) as error:
            name = self._frame.format.name
            raise ImageError(f"the frame's {name} pixels cannot be converted: {error}") from None
        # PyAV's own arrays are copies, made while no other thread can run.
        plane = converted.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        pixels = rows[: converted.height, : 3 * converted.width]
        pixels = pixels.reshape(converted.height, converted.width, 3)
        return np.ascontiguousarray(np.rot90(pixels, self._quarter_turns))
