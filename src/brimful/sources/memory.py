"""Images that are in memory: arrays, tensors, encoded bytes, Pillow images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from brimful.errors import ImageError, UsageError
from brimful.sources.image import SourceImage
from brimful.vision.pixels import Pixels


class MemorySource:
    """Images in memory, in the order given; the key is the position in decimal digits.

    `checked` says what each may be. Pillow images are converted with their EXIF rotation applied.
    """

    def __init__(self, images: Sequence[Any]) -> None:
        """Check and keep the images; nothing is converted yet.

        Raises:
            UsageError: One is no image by its type, shape or values.
        """
        for image in images:
            check(image)
        self._images = images
        self._closed = False

    def __iter__(self) -> Iterator[SourceImage]:
        """Yield the images in order."""
        for index, image in enumerate(self._images):
            if self._closed:
                return
            yield SourceImage(index=index, key=str(index), payload=payload_of(image))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def close(self) -> None:
        """End a running iteration before its next image."""
        self._closed = True


def is_image_object(item: object) -> bool:
    """Tell whether an object is an array, a tensor, encoded bytes or a Pillow image."""
    if isinstance(item, np.ndarray | bytes | bytearray | memoryview):
        return True
    return _is_pillow(item) or is_tensor(item)


def is_tensor(item: object) -> bool:
    """Tell whether an object is PyTorch's tensor, without importing PyTorch."""
    return type(item).__module__.split(".")[0] == "torch" and hasattr(item, "detach")


def check(image: Any) -> None:
    """Refuse an object that is no image.

    An array is uint8 BGR as OpenCV has it: (height, width, 3), (height, width) gray, or (height,
    width, 1 or 4), of which the fourth channel is dropped. A tensor is RGB or gray: (3 or 1,
    height, width), alone or in a batch of one, float from 0 to 1 or uint8. Bytes are an encoded
    image, and whether they are one turns out when they are read.

    Raises:
        UsageError: It is none of these.
    """
    if isinstance(image, np.ndarray):
        shape = image.shape
        if (
            image.dtype != np.uint8
            or image.ndim not in (2, 3)
            or image.size == 0
            or (image.ndim == 3 and shape[2] not in (1, 3, 4))
        ):
            raise UsageError(
                "expected a uint8 array (height, width), (height, width, 1), (height, width, 3) "
                f"or (height, width, 4) in BGR order; got {image.dtype} {shape}. A batch is a "
                "list of such arrays; floats from 0 to 1 in RGB are taken as a tensor (3, height, "
                "width)"
            )
    elif is_tensor(image):
        _check_tensor(image)
    elif not is_image_object(image):
        raise UsageError(
            f"{type(image).__name__} is no image; expected an array, a tensor, encoded bytes or "
            "a Pillow image"
        )


def payload_of(image: Any) -> bytes | Pixels | ImageError:
    """Return what a source brings of an image that was checked."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _bgr(image)
    if is_tensor(image):
        return _from_tensor(image)
    from PIL import ImageOps

    try:
        rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        return ImageError(f"the Pillow image cannot be read: {error}")
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _is_pillow(item: object) -> bool:
    return type(item).__module__.startswith("PIL.") and hasattr(item, "getexif")


def _check_tensor(tensor: Any) -> None:
    shape = tuple(tensor.shape)
    plain = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    kind = str(tensor.dtype).removeprefix("torch.")
    if len(plain) != 3 or plain[0] not in (1, 3) or 0 in plain:
        raise UsageError(
            "expected a tensor (3 or 1, height, width) in RGB order, or a batch of them; got "
            f"{kind} {shape}"
        )
    if kind == "uint8":
        return
    if not tensor.dtype.is_floating_point:
        raise UsageError(f"expected a tensor of floats from 0 to 1, or of uint8; got {kind}")
    low, high = (float(value) for value in tensor.detach().aminmax())
    if not (low >= 0 and high <= 1):  # NaN is neither
        raise UsageError(
            f"expected a tensor of floats from 0 to 1, got {low:g} to {high:g}; divide pixel "
            "values by 255, and leave out what else normalises them"
        )


def _from_tensor(tensor: Any) -> Pixels:
    """Return BGR pixels of a tensor, each the nearest of the 256 levels."""
    array = tensor.detach().cpu()
    if array.dtype.is_floating_point:
        array = (array.float() * 255).round().byte()
    pixels = array.numpy()
    if pixels.ndim == 4:
        pixels = pixels[0]
    return _bgr(np.ascontiguousarray(pixels[::-1].transpose(1, 2, 0)))


def _bgr(array: np.ndarray[Any, Any]) -> Pixels:
    if array.ndim == 2:
        array = array[:, :, np.newaxis]
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array[:, :, :3])
