"""JPEG to pixels, bit for bit what `cv2.imread` returns, and without a word on standard error.

OpenCV's libjpeg prints a line for each oddity it meets, and there is no option against it. So
OpenCV is asked only for what the other two cannot do: EXIF rotation and odd CMYK. simplejpeg is
the fastest (fewer copies, and the GIL is released), but it takes any oddity for an error. Pillow
then tells harmless ones from damage. All three have libjpeg-turbo inside, with the same settings.
"""

from __future__ import annotations

import io
import struct

import numpy as np
import simplejpeg

from brimful.errors import ImageError
from brimful.vision.header import Header
from brimful.vision.pixels import Pixels

_ROWS = 64
"""Rows of CMYK that are converted together: they need twelve bytes a pixel in between."""


def decode_jpeg(data: bytes | memoryview, header: Header) -> Pixels | None:
    """Decode a JPEG that is not rotated by EXIF.

    Args:
        data: The file.
        header: Of it.

    Returns:
        The pixels; None where OpenCV has to be asked.

    Raises:
        ImageError: It is damaged.
    """
    # Damaged EXIF is read in as many ways as there are programs: OpenCV rotates what it rotates.
    if header.components not in (1, 3, 4) or header.orientation != 1:
        return None
    try:
        if header.components == 4:
            return _from_cmyk(simplejpeg.decode_jpeg(data, "CMYK"))
        pixels: Pixels = simplejpeg.decode_jpeg(data, "BGR")
        return pixels
    except ValueError as error:
        # Missing data is an error for us, too.
        if "remature end" in str(error):
            raise ImageError(
                f"the JPEG is truncated: its data ends early ({len(data)} bytes came)"
            ) from None
        if header.components == 4:  # Pillow turns some of them round
            return None
        return _with_pillow(data, header, str(error))


def _with_pillow(data: bytes | memoryview, header: Header, oddity: str) -> Pixels | None:
    """Decode a JPEG that simplejpeg found something odd in; None if Pillow finds no JPEG."""
    from PIL.JpegImagePlugin import JpegImageFile

    # Without EXIF: Pillow warns of what is odd there.
    start = bytes(data[: header.scan]).replace(b"Exif\0\0", b"none\0\0")
    try:
        # Not Image.open, which has a limit of its own for the pixels of an image.
        image = JpegImageFile(io.BytesIO(start + data[header.scan :]))
    except (SyntaxError, OSError, ValueError, IndexError, KeyError, TypeError, struct.error):
        return None
    try:
        rgb = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        raise ImageError(f"the JPEG is damaged: {oddity}") from None
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
