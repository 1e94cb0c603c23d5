"""The original: the pixels that detections are of, from wherever they are."""

from __future__ import annotations

from pathlib import Path

from brimful.detections import Detections
from brimful.errors import ImageError, UsageError
from brimful.sources.frames import read_frames
from brimful.sources.memory import check, payload_of
from brimful.vision.decode import decode
from brimful.vision.host_frame import HostFrame
from brimful.vision.pixels import Pixels


def original_of(detections: Detections, image: object = None) -> Pixels:
    """Return the pixels that detections are of, decoded as the detector decoded them.

    Args:
        detections: Of an image, or of a frame of a video.
        image: The image, as `engine.predict` takes one; by default what `detections.original` says.

    Returns:
        uint8 (height, width, 3), BGR, upright. It may share memory with the image.

    Raises:
        UsageError: Nobody says which image it is, or `image` is none.
        ImageError: It cannot be read any more.
    """
    if image is None:
        image = detections.original
    if image is None:
        raise UsageError(
            f"the pixels of {detections.image!r} are not with its detections: give the image, such "
            "as plot(image), or keep images that are in memory with predict(..., keep_images=True)"
        )
    if isinstance(image, HostFrame):
        return image.pixels()
    if isinstance(image, str | Path):
        if detections.frame is not None:
            return frame_of(str(image), detections.frame)
        return decode(image)
    check(image)
    payload = payload_of(image)
    if isinstance(payload, ImageError):
        raise payload
    return decode(payload) if isinstance(payload, bytes) else payload


def frame_of(path: str, number: int) -> Pixels:
    """Return a frame of a video. All frames before it are decoded for it.

    Raises:
        ImageError: The video has no such frame, or it cannot be read.
    """
    for frame in read_frames(path, leave_out=lambda at: at != number):
        if isinstance(frame.payload, ImageError):
            raise frame.payload
        if isinstance(frame.payload, HostFrame):
            return frame.payload.pixels()
    raise ImageError(f"the video has no frame {number} any more")
