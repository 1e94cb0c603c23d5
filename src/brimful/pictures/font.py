"""The font of labels: text as coverage, at any size, without a font file of the system."""

from __future__ import annotations

import functools
import threading
import unicodedata
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Coverage = NDArray[np.uint8]
"""uint8 (height, width): how much of each pixel is ink, 255 for all of it."""

_lock = threading.Lock()  # of the fonts: neither library says that threads may share one


def coverage(text: str, height: int) -> Coverage:
    """Return a line of text, as high as its font's lines are.

    OpenCV 5 brings a font for nearly all scripts. With an earlier one it is Pillow's own font,
    which has ASCII alone: accents are dropped, and every other character is a question mark.

    Args:
        text: What to write; what cannot be printed in one line is left out.
        height: Of the letters, in pixels: the size of the font.
    """
    text = "".join(c for c in text if c.isprintable()) or " "
    with _lock:
        font = _opencv_font()
        if font is None:
            return _with_pillow(ascii_of(text), height)
        return _with_opencv(font, text, height)


def ascii_of(text: str) -> str:
    """Return a text without its accents, and with question marks for what is not Latin."""
    plain = unicodedata.normalize("NFKD", text)
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    return plain.encode("ascii", "replace").decode()


@functools.cache
def _opencv_font() -> Any:
    """Return OpenCV's font for all scripts, None in OpenCV 4."""
    face = getattr(cv2, "FontFace", None)
    if face is None:
        return None
    font = face()
    return font if font.set("uni") else None


def _with_opencv(font: Any, text: str, height: int) -> Coverage:
    room = (4 * height * (len(text) + 1), 2 * height)  # far more: a line that is full is broken
    x, _, width, _ = cv2.getTextSize(room, text, (0, 0), font, height)
    left, rows = min(0, x), round(1.3 * height)
    canvas = np.zeros((rows, max(1, width + x - left), 3), np.uint8)
    baseline = round(0.98 * height)
    cv2.putText(canvas, text, (-left, baseline), (255, 255, 255), font, height)
    return np.ascontiguousarray(canvas[:, :, 0])


@functools.lru_cache(maxsize=16)
def _pillow_font(height: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=height)


def _with_pillow(text: str, height: int) -> Coverage:
    from PIL import Image, ImageDraw

    font = _pillow_font(height)
    width = max(1, round(font.getlength(text)))
    image = Image.new("L", (width, round(1.3 * height)))
    ImageDraw.Draw(image).text((0, round(0.98 * height)), text, 255, font, anchor="ls")
    return np.asarray(image)
