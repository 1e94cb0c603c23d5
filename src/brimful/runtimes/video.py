"""VideoDevice: what a runtime offers to sources whose videos its device can decode.

The source demultiplexes, numbers, times and skips as ever: PyAV does all of that. The device opens
the file with PyAV so that its own decoder is lent to it (an `av.codec.hwaccel.HWAccel`), and takes
over the frames that come out, whose pixels never leave it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from brimful.errors import BrimfulError
from brimful.vision.device_frame import DeviceFrame

TakeFrame = Callable[[Any, int], DeviceFrame]
"""Takes a decoded `av.VideoFrame` and the quarter turns, counter-clockwise, after which it is
upright. The frame may be dropped when this returns."""


class VideoRefusedError(BrimfulError):
    """The device does not decode this video, or not as PyAV's own decoders do; they can."""


class VideoDevice(Protocol):
    """A device that decodes videos. Any thread may use it, each for videos of its own."""

    def open(self, path: str) -> Any:
        """Return an `av.container.InputContainer` whose streams this device decodes if it can.

        Raises:
            VideoRefusedError: The device decodes nothing; or what `av.open` raises.
        """
        ...

    def start(self, stream: Any) -> TakeFrame:
        """Prepare to take the frames of a stream of a container that `open` returned.

        Args:
            stream: The `av.VideoStream`, before its first packet is decoded.

        Raises:
            VideoRefusedError: The device does not decode it. What is returned raises it, too,
                for a frame that is not on the device or that it cannot convert as the CPU does.
        """
        ...

    def working(self) -> AbstractContextManager[None]:
        """Return what is held while FFmpeg opens, decodes a packet of, or closes such a container.

        `open` does so itself.
        """
        ...

    def refused(self, path: str, reason: str) -> None:
        """Learn that a video, or the rest of it, is decoded on the CPU, and tell the user."""
        ...
