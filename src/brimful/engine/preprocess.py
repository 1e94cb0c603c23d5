"""Preprocess on the host: a decoded image straight into its row of a slot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.errors import ImageError
from brimful.sources.image import Pixels, SourceImage
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import DecodeLimits, decode
from brimful.vision.geometry import Geometry
from brimful.vision.letterbox import classify_crop, letterbox


class HostPreprocess:
    """Decode and letterbox on CPU threads."""

    def __init__(self, spec: ModelSpec, policy: CanvasPolicy, limits: DecodeLimits) -> None:
        """Keep what decides canvas and pixels."""
        self._policy = policy
        self._limits = limits
        self._crop = spec.task == "classify"

    def decode(self, image: SourceImage) -> Pixels:
        """Return an image's pixels.

        Raises:
            ImageError: It cannot be read or decoded.
        """
        payload = image.payload
        if isinstance(payload, np.ndarray):
            return _checked(payload)
        if isinstance(payload, Path | bytes):
            return decode(payload, self._limits)
        if isinstance(payload, ImageError):
            raise ImageError(str(payload))  # a fresh one: it may be on its way in two threads
        raise ImageError(f"the source brought no image but {type(payload).__name__}: {payload}")

    def place(self, pixels: Pixels) -> Geometry:
        """Return where an image goes."""
        return self._policy.place((pixels.shape[0], pixels.shape[1]))

    def write(self, pixels: Pixels, geometry: Geometry, row: NDArray[Any]) -> None:
        """Write an image into its row of a slot."""
        if self._crop:
            classify_crop(pixels, row)
        else:
            letterbox(pixels, geometry, row)


def _checked(pixels: NDArray[Any]) -> Pixels:
    if pixels.dtype != np.uint8:
        raise ImageError(f"expected uint8 pixels, got {pixels.dtype}")
    shape = pixels.shape
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and shape[2] not in (1, 3)) or 0 in shape:
        raise ImageError(
            f"expected pixels (height, width, 3) in BGR or (height, width) gray, got {shape}"
        )
    return pixels
