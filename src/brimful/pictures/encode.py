"""Encode: pixels to an image file of the kind that its name says."""

from __future__ import annotations

from pathlib import Path

import cv2

from brimful.errors import UsageError
from brimful.sinks.atomic import whole_file
from brimful.vision.pixels import Pixels

_KINDS: dict[str, tuple[str, list[int]]] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])),
    ".png": (".png", []),
    ".webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 90]),
    **dict.fromkeys((".bmp", ".dib"), (".bmp", [])),
    **dict.fromkeys((".tif", ".tiff"), (".tiff", [])),
}

SUFFIXES = frozenset(_KINDS)
"""Lower-case suffixes of what can be written."""


def encode(pixels: Pixels, suffix: str) -> bytes:
    """Encode an image.

    Args:
        pixels: uint8 (height, width, 3), BGR.
        suffix: Says the format, in any case: one of `SUFFIXES`. JPEG has quality 95, WebP 90; the
            others are lossless.

    Raises:
        UsageError: The suffix is another, or the format cannot hold an image of that size.
    """
    kind = _KINDS.get(suffix.lower())
    if kind is None:
        raise UsageError(
            f"pictures are written as {', '.join(sorted(SUFFIXES))}; {suffix or 'no suffix'} is "
            "none of these"
        )
    try:
        done, data = cv2.imencode(kind[0], pixels, kind[1])
    except cv2.error:
        done = False
    if not done:
        height, width = pixels.shape[:2]
        raise UsageError(f"a picture of {width}x{height} cannot be written as {suffix}")
    return data.tobytes()


def write_image(path: Path, pixels: Pixels) -> None:
    """Write an image, whole or not at all. What has that name is replaced.

    Raises:
        UsageError: As `encode`.
        OSError: The file cannot be written.
    """
    data = encode(pixels, path.suffix)
    with whole_file(path, durable=False) as file:
        file.write(data)
