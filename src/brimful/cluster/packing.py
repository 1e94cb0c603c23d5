"""Packing: images on their way to an engine process.

Files travel as their paths, images in memory through the arena. A tuple of plain values and not a
class, because it is pickled once per image.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from brimful.cluster.arena import Arena, Block
from brimful.errors import ImageError
from brimful.sources.image import SourceImage
from brimful.vision.host_frame import HostFrame

_INLINE = 4096
"""Bytes up to which an image in memory travels within the message."""


@dataclass(frozen=True, slots=True)
class Inline:
    """A payload that travels as it is: little, or no image at all."""

    payload: Any


Packed = tuple[int, str, int | None, float | None, str | Block | Inline]
"""index, key, frame, pts_ms, and the payload; a string is a path."""


def convert(image: SourceImage) -> None:
    """Convert a host frame of a video here: FFmpeg's memory does not travel."""
    if isinstance(image.payload, HostFrame):
        try:
            image.payload = image.payload.pixels()
        except ImageError as error:
            image.payload = error


def in_memory(payload: object) -> TypeGuard[NDArray[Any] | bytes]:
    """Tell whether a payload takes a block of the arena."""
    if isinstance(payload, np.ndarray):
        return payload.nbytes > _INLINE and not payload.dtype.hasobject
    return isinstance(payload, bytes) and len(payload) > _INLINE


def size_of(payload: NDArray[Any] | bytes) -> int:
    """Return the bytes of an image in memory."""
    return payload.nbytes if isinstance(payload, np.ndarray) else len(payload)


def pack(image: SourceImage, block: Block | None) -> Packed:
    """Return what travels of an image.

    Args:
        image: The image.
        block: Where in the arena it is, if it is `in_memory`.
    """
    payload = image.payload
    if block is not None:
        travels: str | Block | Inline = block
    elif isinstance(payload, str | Path):
        travels = str(payload)
    else:
        travels = Inline(_picklable(payload))
    return image.index, image.key, image.frame, image.pts_ms, travels


def unpack(packed: Packed, arena: Arena) -> SourceImage:
    """Return the image, its pixels as a view of the arena."""
    index, key, frame, pts_ms, travels = packed
    if isinstance(travels, str):
        payload: Any = travels
    elif isinstance(travels, Block):
        payload = arena.read(travels)
    else:
        payload = travels.payload
    return SourceImage(index=index, key=key, payload=payload, frame=frame, pts_ms=pts_ms)


def _picklable(payload: object) -> object:
    if isinstance(payload, ImageError):
        return ImageError(str(payload))  # its message is all that counts
    try:
        pickle.dumps(payload)
    except Exception:  # whatever an object's own pickling raises
        return ImageError(f"the source brought no image but {type(payload).__name__}: {payload}")
    return payload
