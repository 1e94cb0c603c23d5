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
from brimful.extras import require

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
        av = require("av", feature="reading videos", extra="video")
        try:
            # One for all frames of a thread: each of its own would set FFmpeg's scaler up anew,
            # with a thread for every CPU, which takes longer than the decoding.
            converter = _mine.converter
        except AttributeError:
            converter = _mine.converter = av.video.reformatter.VideoReformatter()
        try:
            converted = converter.reformat(self._frame, format="bgr24", threads=1)
            pixels: NDArray[np.uint8] = converted.to_ndarray()
        except (av.FFmpegError, ValueError) as error:
            name = self._frame.format.name
            raise ImageError(f"the frame's {name} pixels cannot be converted: {error}") from None
        if self._quarter_turns:
            return np.ascontiguousarray(np.rot90(pixels, self._quarter_turns))
        return pixels
