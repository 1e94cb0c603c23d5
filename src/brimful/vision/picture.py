"""Picture: a frame of a video as FFmpeg has decoded it, not converted yet.

The thread that reads a video decides how fast it can be; converting costs it as much as all the
rest of its work. So whoever needs the pixels converts them, on a thread of its own.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.errors import ImageError

_mine = threading.local()


class Picture:
    """A decoded frame on the host. Any thread may convert it."""

    __slots__ = ("_frame", "_quarter_turns", "nbytes")

    def __init__(self, frame: Any, quarter_turns: int) -> None:
        """Keep a frame.

        Args:
            frame: An `av.VideoFrame`.
            quarter_turns: Counter-clockwise, after which it is upright.
        """
        self._frame = frame
        self._quarter_turns = quarter_turns
        self.nbytes = sum(plane.buffer_size for plane in frame.planes)
        """Bytes of memory that it holds."""

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
            converted = converter.reformat(self._frame, format="bgr24", threads=1)
        except (av.FFmpegError, ValueError) as error:
            name = self._frame.format.name
            raise ImageError(f"the frame's {name} pixels cannot be converted: {error}") from None
        # PyAV's own arrays are copies, made while no other thread can run.
        plane = converted.planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        pixels = rows[: converted.height, : 3 * converted.width]
        pixels = pixels.reshape(converted.height, converted.width, 3)
        return np.ascontiguousarray(np.rot90(pixels, self._quarter_turns))
