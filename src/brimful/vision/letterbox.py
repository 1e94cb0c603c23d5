"""Letterbox and centre crop: decoded pixels straight into a slot's buffer, on the CPU.

A slot takes one of two host formats:

- uint8 (height, width, channels): BGR, or gray with one channel;
- float32 (channels, height, width): RGB or gray, 0 to 1, each value exactly `pixel / 255`.

Everything here is safe to call from several threads at once, each with its own `out`.
"""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from brimful.errors import ImageError
from brimful.spec import Size
from brimful.vision.geometry import PAD_VALUE, Geometry
from brimful.vision.pixels import Pixels

UNIT = np.arange(256, dtype=np.float32) / np.float32(255)
"""What each pixel value is in a float32 slot."""

LONGEST_RESIZED = 16
"""A classifier's image whose longer side is more than so many times the shorter one is resized only
where its crop is: 1 x 65535 pixels would become 224 x 14.7 million."""

_scratch = threading.local()


def letterbox(image: Pixels, geometry: Geometry, out: NDArray[Any]) -> None:
    """Resize an image (bilinear) onto its canvas and fill the rest with gray.

    Args:
        image: uint8 (height, width, 3) in BGR, or (height, width[, 1]) gray.
        geometry: Where the image goes; its canvas is the size of `out`.
        out: Slot buffer in one of the two host formats; every value is written.

    Raises:
        ImageError: The image is not what `geometry` was made for.
        ValueError: `out` has not the canvas size, or is in neither format.
    """
    channels = _check(out, geometry.canvas)
    if image.shape[:2] != geometry.image or image.dtype != np.uint8:
        raise ImageError(
            f"expected uint8 pixels of {geometry.image[0]}x{geometry.image[1]}, "
            f"got {image.dtype} of {'x'.join(map(str, image.shape))}"
        )
    image = with_channels(image, channels)
    top, left = geometry.top, geometry.left
    bottom, right = top + geometry.resized[0], left + geometry.resized[1]
    if out.dtype == np.uint8:
        _resize_into(image, out[top:bottom, left:right])
        _pad(out, geometry, PAD_VALUE)
        return
    if image.shape[:2] != geometry.resized:
        resized = _buffer("resized", (*geometry.resized, channels))
        _resize_into(image, resized)
        image = resized
    _to_planes(image, out[:, top:bottom, left:right])
    for plane in out:
        _pad(plane, geometry, UNIT[PAD_VALUE])


def classify_crop(image: Pixels, out: NDArray[Any]) -> None:
    """Resize an image for a classifier and take its centre, as torchvision does with PIL.

    A square `out` gets the image with its shorter side resized (antialiased bilinear) to that
    side, and the centre of the longer one. Any other `out` gets the image stretched to it. This
    is what YOLO classifiers are trained and evaluated with. Of an image that is longer than
    `LONGEST_RESIZED` only the range of the crop is resized, whose pixels may differ by one level.

    Args:
        image: uint8 (height, width, 3) in BGR, or (height, width[, 1]) gray.
        out: Slot buffer in one of the two host formats; every value is written.

    Raises:
        ValueError: `out` is in neither format.
    """
    from PIL import Image

    height, width = out.shape[:2] if out.dtype == np.uint8 else out.shape[1:]
    channels = _check(out, (height, width))
    image = with_channels(image, channels)
    rows, columns = image.shape[:2]
    if height != width:
        size = (height, width)
    elif rows <= columns:
        size = (height, int(height * columns / rows))
    else:
        size = (int(width * rows / columns), width)
    top = round((size[0] - height) / 2)
    left = round((size[1] - width) / 2)
    if size != (rows, columns):
        # the resize treats channels alike, so that BGR may pass for Pillow's RGB
        host_frame = Image.fromarray(image[..., 0] if channels == 1 else image)
        box = None
        if max(size) > LONGEST_RESIZED * min(size):
            down, across = rows / size[0], columns / size[1]
            right = min((left + width) * across, columns)
            bottom = min((top + height) * down, rows)
            box = (left * across, top * down, right, bottom)
            size, top, left = (height, width), 0, 0
        image = np.asarray(host_frame.resize(size[::-1], Image.Resampling.BILINEAR, box))
        image = image.reshape(*size, channels)
    image = image[top : top + height, left : left + width]
    if out.dtype == np.uint8:
        out[...] = image
    else:
        _to_planes(image, out)


def with_channels(image: Pixels, channels: int) -> Pixels:
    """Return an image as (height, width, channels), converting between BGR and gray."""
    have = 1 if image.ndim == 2 else image.shape[2]
    if have != channels:
        conversions = {(3, 1): cv2.COLOR_BGR2GRAY, (1, 3): cv2.COLOR_GRAY2BGR}
        if (have, channels) not in conversions:
            raise ImageError(
                f"expected an image of 1 or 3 channels for a model of {channels}, got {have}"
            )
        image = np.asarray(cv2.cvtColor(image, conversions[have, channels]), np.uint8)
    return image if image.ndim == 3 else image[..., None]


def _check(out: NDArray[Any], size: Size) -> int:
    """Return the channels of a slot buffer that has one of the two formats."""
    if out.ndim == 3:
        if out.dtype == np.uint8 and out.shape[:2] == size and out.shape[2] in (1, 3):
            return int(out.shape[2])
        if out.dtype == np.float32 and out.shape[1:] == size and out.shape[0] in (1, 3):
            return int(out.shape[0])
    raise ValueError(
        f"expected a slot of uint8 ({size[0]}, {size[1]}, 1 or 3) or float32 "
        f"(1 or 3, {size[0]}, {size[1]}), got {out.dtype} {out.shape}"
    )


def _resize_into(image: Pixels, region: Pixels) -> None:
    """Resize an image (h, w, c) to fill `region`, which may be a view with gaps between rows."""
    if image.shape == region.shape:
        region[...] = image
        return
    size = (region.shape[1], region.shape[0])
    done = cv2.resize(image, size, dst=region, interpolation=cv2.INTER_LINEAR)
    # OpenCV writes into most views, and into a new array for those it cannot describe
    if done.ctypes.data != region.ctypes.data:
        region[...] = done.reshape(region.shape)


def _to_planes(image: Pixels, planes: NDArray[np.float32]) -> None:
    """Write an image (h, w, c) in BGR as RGB planes (c, h, w) of 0 to 1."""
    channels = image.shape[2]
    level = _buffer("plane", image.shape[:2])
    for channel in range(channels):
        cv2.extractChannel(image, channels - 1 - channel, level)
        plane = planes[channel]
        # a table instead of a division: the same values, faster than converting and dividing
        done = cv2.LUT(level, UNIT, dst=plane)
        if done.ctypes.data != plane.ctypes.data:
            plane[...] = done.reshape(plane.shape)


def _pad(canvas: NDArray[Any], geometry: Geometry, value: float | np.float32) -> None:
    """Fill what the image leaves free of a canvas (height, width[, channels])."""
    top, left = geometry.top, geometry.left
    bottom, right = top + geometry.resized[0], left + geometry.resized[1]
    canvas[:top] = value
    canvas[bottom:] = value
    canvas[top:bottom, :left] = value
    canvas[top:bottom, right:] = value


def _buffer(name: str, shape: tuple[int, ...]) -> Pixels:
    """Return this thread's scratch array `name`, contiguous and of the given shape."""
    size = int(np.prod(shape))
    held: Pixels | None = getattr(_scratch, name, None)
    if held is None or held.size < size:
        held = np.empty(size, np.uint8)
        setattr(_scratch, name, held)
    return held[:size].reshape(shape)
