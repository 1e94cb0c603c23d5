"""Images that are in memory: arrays, encoded bytes, Pillow images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from brimful.errors import ImageError
from brimful.sources.image import SourceImage
from brimful.vision.pixels import Pixels


class MemorySource:
    """Images in memory, in the order given; the key is the position in decimal digits.

    Arrays are uint8 BGR as OpenCV has them: (height, width, 3), (height, width) gray, or
    (height, width, 1 or 4), of which the fourth channel is dropped. Pillow images are converted
    with their EXIF rotation applied. Bytes are an encoded image.
    """

    def __init__(self, images: Sequence[Any]) -> None:
        """Keep the images; nothing is converted yet."""
        self._images = images
        self._closed = False

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield the images in order."""
        for index, image in enumerate(self._images):
            if self._closed:
                return
            yield SourceImage(index=index, key=str(index), payload=_payload(image))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def close(self) -> None:
        """End a running iteration before its next image."""
        self._closed = True


def is_image_object(item: object) -> bool:
    """Tell whether an object is an array, encoded bytes or a Pillow image."""
    return isinstance(item, np.ndarray | bytes | bytearray | memoryview) or _is_pillow(item)


def _is_pillow(item: object) -> bool:
    return type(item).__module__.startswith("PIL.") and hasattr(item, "getexif")


def _payload(image: Any) -> bytes | Pixels | ImageError:
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _bgr(image)
    from PIL import ImageOps

    try:
        rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError) as error:
        return ImageError(f"the Pillow image cannot be read: {error}")
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _bgr(array: np.ndarray[Any, Any]) -> Pixels | ImageError:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.size == 0:
        return _not_an_image(array)
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    channels = array.shape[2]
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    if channels not in (3, 4):
        return _not_an_image(array)
    return np.ascontiguousarray(array[:, :, :3])


def _not_an_image(array: np.ndarray[Any, Any]) -> ImageError:
    return ImageError(
        "expected a uint8 array (height, width), (height, width, 1), (height, width, 3) or "
        f"(height, width, 4) in BGR order; got {array.dtype} {array.shape}"
    )
