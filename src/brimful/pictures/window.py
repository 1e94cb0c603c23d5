"""Window: pictures on the screen while a job runs."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from brimful.detections import Detections
from brimful.errors import ImageError, UsageError
from brimful.extras import installed
from brimful.pictures.draw import draw
from brimful.pictures.original import original_of
from brimful.pictures.style import Style
from brimful.vision.pixels import Pixels

IMAGE_S = 0.3
"""Seconds that an image is looked at; a frame of a video stays until the next one."""

_INSTEAD = "--save writes pictures to files"
_SHARE = 0.9  # of the screen, that a picture covers at most


class Window:
    """A window that shows results as they come. One thread uses it, the one that made it.

    Closing it ends the showing and not the job.
    """

    def __init__(self, style: Style) -> None:
        """Open the window.

        Args:
            style: What is drawn.

        Raises:
            UsageError: There is no display, or Python came without tkinter.
        """
        if not installed("tkinter") or not installed("_tkinter"):
            raise UsageError(
                "--show needs Python's tkinter, which is not installed (Debian has it as "
                f"python3-tk); {_INSTEAD}"
            )
        import tkinter

        try:
            self._root: Any = tkinter.Tk(className="brimful")
        except tkinter.TclError as error:
            display = os.environ.get("DISPLAY")
            what = f"DISPLAY {display} is none ({error})" if display else "there is no display"
            raise UsageError(f"--show opens a window, and {what}; {_INSTEAD}") from None
        self._style = style
        self._picture: Any = None
        self._label: Any = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._open = True
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def write(self, batch: Sequence[Detections]) -> None:
        """Show results one after the other; those with an error, or without an image, are not."""
        for detections in batch:
            if not self._open:
                return
            if detections.error is not None:
                continue
            with contextlib.suppress(ImageError):  # the file is gone: its row is there all the same
                self._show(draw(original_of(detections), detections, self._style), detections)

    def close(self) -> None:
        """Close the window; nothing is shown any more."""
        if self._open:
            self._open = False
            self._root.destroy()

    def _show(self, pixels: Pixels, d: Detections) -> None:
        import tkinter

        most = (_SHARE * self._root.winfo_screenwidth(), _SHARE * self._root.winfo_screenheight())
        picture = tkinter.PhotoImage(data=as_ppm(fitted(pixels, most)), format="PPM")
        self._label.configure(image=picture)
        self._picture = picture  # Tk shows nothing that Python has forgotten
        self._root.title(d.image if d.frame is None else f"{d.image} {d.frame}")
        end = time.monotonic() + (IMAGE_S if d.frame is None else 0.0)
        while self._open:
            self._root.update()
            if time.monotonic() >= end:
                return
            time.sleep(0.01)


def fitted(pixels: Pixels, most: tuple[float, float]) -> Pixels:
    """Return a picture made smaller, if it is larger than (width, height) in pixels."""
    height, width = pixels.shape[:2]
    scale = min(1.0, most[0] / width, most[1] / height)
    if scale == 1.0:
        return pixels
    size = (max(1, int(scale * width)), max(1, int(scale * height)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def as_ppm(pixels: Pixels) -> bytes:
    """Return BGR pixels as a binary PPM, which every Tk reads."""
    height, width = pixels.shape[:2]
    return b"P6 %d %d 255\n" % (width, height) + pixels[:, :, ::-1].tobytes()
