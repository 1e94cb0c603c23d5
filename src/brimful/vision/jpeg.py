"""JPEG to pixels, bit for bit what `cv2.imread` returns, and without a word on standard error.

OpenCV's libjpeg prints a line for each oddity it meets, and there is no option against it. So
OpenCV is asked only for what the other two cannot do, odd CMYK. simplejpeg is the fastest (fewer
copies, and the GIL is released), but it takes any oddity for an error. Pillow then tells harmless
ones from damage. All three have libjpeg-turbo inside, with the same settings.

Damaged EXIF is read in as many ways as there are programs. What OpenCV makes of it is found out
with a host frame of a few pixels that has the same EXIF.
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg

from brimful.errors import ImageError
from brimful.vision.header import Header
from brimful.vision.pixels import Pixels

_ROWS = 64
"""Rows of CMYK that are converted together: they need twelve bytes a pixel in between."""


def decode_jpeg(data: bytes | memoryview, header: Header) -> Pixels | None:
    """Decode a JPEG, its EXIF rotation applied.

    Args:
        data: The file.
        header: Of it.

    Returns:
        The pixels; None where OpenCV has to be asked.

    Raises:
        ImageError: It is damaged.
    """
    if header.components not in (1, 3, 4):
        return None
    orientation: int = 1
    if header.orientation != 1:
        found = _orientation(data, header)
        if found is None:
            return None
        orientation = found
    pixels: Pixels | None
    try:
        if header.components == 4:
            pixels = _from_cmyk(simplejpeg.decode_jpeg(data, "CMYK"))
        else:
            pixels = simplejpeg.decode_jpeg(data, "BGR")
    except ValueError as error:
        # Missing data is an error for us, too.
        if "remature end" in str(error):
            raise ImageError(
                f"the JPEG is truncated: its data ends early ({len(data)} bytes came)"
            ) from None
        if header.components == 4:  # Pillow turns some of them round
            return None
        pixels = _with_pillow(data, header, str(error))
    return None if pixels is None else upright(pixels, orientation)


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Turn and mirror pixels as an EXIF orientation, 1 to 8, says."""
    if orientation > 4:
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else np.asarray(cv2.flip(pixels, flip), np.uint8)


def _orientation(data: bytes | memoryview, header: Header) -> int | None:
    """Return which EXIF orientation OpenCV applies, None where that is not found out."""
    exif = b"".join(_exif_segments(bytes(data[: header.scan])))
    small, results = _small_picture()
    found = cv2.imdecode(np.frombuffer(small[:2] + exif + small[2:], np.uint8), cv2.IMREAD_COLOR)
    if found is not None:
        for orientation, expected in enumerate(results, 1):
            if found.shape == expected.shape and np.array_equal(found, expected):
                return orientation
    return None


def _exif_segments(start: bytes) -> Iterator[bytes]:
    """Yield the APP1 segments before the first scan of a JPEG."""
    at = 2
    while 0 <= (at := start.find(b"\xff", at)) < len(start) - 4:
        marker, length = start[at + 1], int.from_bytes(start[at + 2 : at + 4], "big")
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD9:  # these have no length
            at += 1
            continue
        if marker == 0xE1:
            yield start[at : at + 2 + length]
        at += 2 + max(length, 2)


@functools.cache
def _small_picture() -> tuple[bytes, list[Pixels]]:
    """Return a small JPEG and its pixels in each EXIF orientation, no two of which are alike."""
    pixels = np.repeat(np.repeat(np.array([[0, 80], [160, 240]], np.uint8), 8, 0), 16, 1)
    encoded = cv2.imencode(".jpg", pixels)[1]
    plain = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return encoded.tobytes(), [upright(plain, orientation) for orientation in range(1, 9)]


def _with_pillow(data: bytes | memoryview, header: Header, oddity: str) -> Pixels | None:
    """Decode a JPEG that simplejpeg found something odd in; None if Pillow finds no JPEG."""
    from PIL.JpegImagePlugin import JpegImageFile

    # Without EXIF: Pillow warns of what is odd there.
    scan = header.scan or len(data)
    start = bytes(data[:scan]).replace(b"Exif\0\0", b"none\0\0")
    try:
        # Not Image.open, which has a limit of its own for the pixels of an image.
        image = JpegImageFile(io.BytesIO(start + data[scan:]))
    except (SyntaxError, OSError, ValueError, IndexError, KeyError, TypeError, struct.error):
        return None
    try:
        rgb = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        what = "" if oddity.startswith("tj") else f": {oddity}"  # that is about simplejpeg alone
        raise ImageError(f"the JPEG is damaged{what} ({len(data)} bytes came)") from None
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _from_cmyk(cmyk: Pixels) -> Pixels:
    """Convert as OpenCV does, from inverted CMYK as Adobe's programs write it."""
    height, width = cmyk.shape[:2]
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _ROWS):
        rows = cmyk[top : top + _ROWS].astype(np.int32)
        black = rows[:, :, 3:]
        colour = black - ((255 - rows[:, :, 2::-1]) * black >> 8)
        pixels[top : top + _ROWS] = colour
    return pixels
