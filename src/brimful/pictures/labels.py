"""Labels: text on plates of the class's colour, placed so that they can be read."""

from __future__ import annotations

import functools
import re

import numpy as np
from numpy.typing import NDArray

from brimful.pictures.font import coverage
from brimful.pictures.palette import Colour, ink_on
from brimful.vision.pixels import Pixels

_SMALLEST = 9  # pixels of letters that can still be read
_CUT = ".."
_CONFIDENCE = re.compile(r" \d\.\d\d$")


@functools.lru_cache(maxsize=512)
def plate(text: str, height: int, colour: Colour, widest: int) -> Pixels:
    """Return a label.

    Args:
        text: What it says.
        height: Of its letters, in pixels; what is too wide gets smaller ones, then loses its
            confidence, then its end.
        colour: Of the plate; the letters are dark on light and light on dark ones.
        widest: Most pixels that it may be wide.

    Returns:
        uint8 (plate height, plate width, 3), BGR. It is shared: nobody may write to it.
    """
    pad = max(2, height // 5)
    letters = coverage(text, height)
    if letters.shape[1] + 2 * pad > widest:
        fitting = max(_SMALLEST, height * max(1, widest - 2 * pad) // letters.shape[1])
        height, pad = min(height, fitting), 1
        letters = coverage(text, height)
        if letters.shape[1] + 2 * pad > widest:
            text = _CONFIDENCE.sub("", text)
            letters = coverage(text, height)
        while letters.shape[1] + 2 * pad > widest and len(text) > 1:
            text = text.removesuffix(_CUT)[:-1] + (_CUT if len(text) > 4 else "")
            letters = coverage(text, height)
    letters = letters[:, : max(1, widest - 2 * pad)]
    share = np.pad(letters, ((1, 1), (pad, pad))).astype(np.float32)[:, :, None] / 255
    mixed = np.array(colour) * (1 - share) + np.array(ink_on(colour)) * share
    made = np.round(mixed).astype(np.uint8)
    made.flags.writeable = False
    return made


class Labels:
    """The labels of one picture. Each is whole within it, and off the others if there is room.

    Where there is none, the one that was added first covers the other.
    """

    def __init__(self, canvas: Pixels) -> None:
        """Begin with none.

        Args:
            canvas: The picture, which is drawn on.
        """
        self._canvas = canvas
        self._taken: NDArray[np.int64] = np.empty((16, 4), np.int64)
        self._count = 0
        self._placed: list[tuple[Pixels, int, int]] = []

    def add(self, label: Pixels, box: tuple[int, int, int, int]) -> None:
        """Find the place of a label: above a box, else below it, else inside.

        Args:
            label: A plate.
            box: `x1 y1 x2 y2` in pixels, which may lie outside of the picture.
        """
        height, width = label.shape[:2]
        x1, y1, x2, y2 = box
        spots = ((x1, y1 - height), (x1, y2), (x1, y1), (x2 - width, y1 - height))
        placed = [self._inside(spot, height, width) for spot in spots]
        left, top = next((spot for spot in placed if self._free(spot, height, width)), placed[0])
        if self._count == len(self._taken):
            self._taken = np.concatenate((self._taken, np.empty_like(self._taken)))
        self._taken[self._count] = left, top, left + width, top + height
        self._count += 1
        self._placed.append((label, left, top))

    def paste(self) -> None:
        """Draw all of them."""
        for label, left, top in reversed(self._placed):
            room = self._canvas[top : top + label.shape[0], left : left + label.shape[1]]
            room[:] = label[: room.shape[0], : room.shape[1]]

    def _inside(self, spot: tuple[int, int], height: int, width: int) -> tuple[int, int]:
        rows, columns = self._canvas.shape[:2]
        return max(0, min(spot[0], columns - width)), max(0, min(spot[1], rows - height))

    def _free(self, spot: tuple[int, int], height: int, width: int) -> bool:
        left, top = spot
        taken = self._taken[: self._count]
        over = (taken[:, 0] < left + width) & (taken[:, 2] > left)
        over &= (taken[:, 1] < top + height) & (taken[:, 3] > top)
        return not over.any()
