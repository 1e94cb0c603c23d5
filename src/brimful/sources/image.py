"""SourceImage: one host frame on its way, before anything was decoded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brimful.vision.device_frame import DeviceFrame
from brimful.vision.heads.config import PostprocessConfig
from brimful.vision.host_frame import HostFrame
from brimful.vision.pixels import Pixels

Payload = str | Path | bytes | Pixels | HostFrame | DeviceFrame | Exception
"""What a source brings of an image, see `SourceImage`."""


@dataclass(slots=True, kw_only=True)
class SourceImage:
    """One host frame on its way.

    Attributes:
        index: Position in the source, from 0, without gaps; what a resumed job
            leaves out keeps its index.
        key: The name results carry: the path relative to the source, with forward slashes.
        payload: The path of a file to read, encoded bytes, decoded pixels, a host frame of a video
            that is to be converted or is on the device that the source was given, or the reason
            why there is none. Sources of files give paths as text: a Path an image is dear by the
            million.
        frame: Frame number within a video, from 0.
        pts_ms: Presentation time of the frame in milliseconds.
        video: Path of the video that a frame is of.
        kept: Its payload stays with its result, to be drawn on: it cannot be read a second time.
        params: What becomes a detection in it, where it has a setting of its own.
    """

    index: int
    key: str
    payload: Payload
    frame: int | None = None
    pts_ms: float | None = None
    video: str | None = None
    kept: bool = False
    params: PostprocessConfig | None = None
