"""Images handed over in memory: what they are, and what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from brimful.errors import UsageError
from brimful.sources.image import Payload, SourceImage
from brimful.sources.memory import MemorySource, is_image_object
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.host_frame import HostFrame


def payload_of(image: object, *, copy: bool) -> Payload:
    """Return what a caller handed over as a payload.

    Args:
        image: A path, encoded bytes, a Pillow image or pixels.
        copy: Copy pixels that share memory with the caller's.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(image, str | Path):
        return image
    if not is_image_object(image):
        raise UsageError(
            f"{type(image).__name__} is no image; expected a path, encoded bytes, a Pillow "
            "image or an array of uint8 pixels (height, width, 3) in BGR"
        )
    payload = next(iter(MemorySource([image]))).payload
    if copy and isinstance(payload, np.ndarray) and np.may_share_memory(payload, image):
        payload = payload.copy()
    return payload


def bytes_held(image: SourceImage) -> int:
    """Return the bytes of memory that an image holds until it has a result."""
    payload = image.payload
    if isinstance(payload, str):
        return 0
    if isinstance(payload, np.ndarray | HostFrame | DeviceFrame):
        return payload.nbytes
    return len(payload) if isinstance(payload, bytes) else 0
