"""Preprocess on the host: an image straight into its place in a slot, as pixels or as it came."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.engine.jpeg_prefixes import JpegPrefixes
from brimful.errors import ImageError
from brimful.native.read_files import LARGEST, FileReader
from brimful.runtimes.runtime import Slot
from brimful.sources.image import SourceImage
from brimful.spec import ModelSpec, Size
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import (
    DecodeLimits,
    MemoryFor,
    check_encoded,
    decode_pixels,
    read_encoded,
)
from brimful.vision.device_frame import DeviceFrame
from brimful.vision.encoded import Encoded
from brimful.vision.geometry import Geometry
from brimful.vision.header import Header
from brimful.vision.host_frame import HostFrame
from brimful.vision.letterbox import classify_crop, letterbox
from brimful.vision.pixels import Pixels

ENCODED_BYTES = 32 * 2**20
"""An encoded image waits in memory for its forward; a larger file is decoded at once."""

SIZES_KEPT = 4096
"""Image sizes whose geometry is remembered; a job has few, or else one for each image."""

_PATH = (str, Path)
_TO_READ = (str, bytes, Path)  # a union would be built anew for every image
_FRAMES = (HostFrame, DeviceFrame)
_PUT = (Encoded, HostFrame, DeviceFrame)


class HostPreprocess:
    """Read, decode and letterbox on CPU threads; what is the device's to decode is handed on."""

    def __init__(
        self,
        spec: ModelSpec,
        policy: CanvasPolicy,
        limits: DecodeLimits,
        accepts_encoded: Callable[[Header], bool] | None = None,
        accepts_frame: Callable[[HostFrame], bool] | None = None,
        pinned_for: MemoryFor | None = None,
        reader: FileReader | None = None,
    ) -> None:
        """Keep what decides canvas and pixels.

        Args:
            spec: The model.
            policy: Chooses the canvas.
            limits: How large an image may be.
            accepts_encoded: `Runtime.accepts_encoded`.
            accepts_frame: `Runtime.accepts_frame`.
            pinned_for: `Runtime.pinned_for`.
            reader: Reads files ahead into such memory.
        """
        self._policy = policy
        self._limits = limits
        self._crop = spec.task == "classify"
        self._accepts_encoded = accepts_encoded
        self._accepts_frame = accepts_frame
        self._pinned_for = pinned_for
        self._reader = reader
        self._known = JpegPrefixes()
        self._placed: dict[Size, Geometry] = {}
        self._last_placed: tuple[Header | None, Geometry | None] = None, None

    @property
    def reads(self) -> bool:
        """Whether `read` reads anything."""
        return self._reader is not None

    def read(self, images: Sequence[SourceImage]) -> Sequence[Encoded | memoryview | None]:
        """Read what are ordinary files, together; None for what `decode` has to read itself.

        Of a JPEG that begins as others did and has its end nothing is left to check.
        """
        read: list[Encoded | memoryview | None] = [None] * len(images)
        if self._reader is None or self._pinned_for is None:
            return read
        files: list[int] = []
        paths: list[str | Path] = []
        for i, image in enumerate(images):
            if isinstance(image.payload, _PATH):
                files.append(i)
                paths.append(image.payload)
        starts, headers = self._known.table
        try:
            found = self._reader.read(paths, self._pinned_for, starts)
        except Exception:  # one of them has a name that no file can have: each is read on its own
            return read
        for i, file in zip(files, found, strict=True):
            if file is not None:
                data, address, start = file
                read[i] = data if start < 0 else Encoded(data, headers[start], address)
        return read

    def decode(
        self,
        image: SourceImage,
        read: Encoded | memoryview | None = None,
        on_host: Callable[[], None] | None = None,
    ) -> Pixels | Encoded | HostFrame | DeviceFrame:
        """Return an image's pixels, or what it is when the device makes these, or has done so.

        Args:
            image: The image.
            read: Its file, if `read` has read it.
            on_host: Told before the decode, when it is this thread that decodes.

        Raises:
            ImageError: It cannot be read or decoded.
        """
        payload = image.payload
        if isinstance(payload, np.ndarray):
            return _checked(payload)
        if isinstance(payload, _TO_READ):
            if isinstance(read, Encoded):
                encoded = read
            elif read is not None:
                encoded = check_encoded(read, self._limits)
                if self._limits.max_bytes >= LARGEST:  # what is known is not checked again
                    self._known.observe(encoded)
            else:
                encoded = read_encoded(payload, self._limits, self._pinned_for)
            if (
                self._accepts_encoded is not None
                and len(encoded.data) <= ENCODED_BYTES
                and self._accepts_encoded(encoded.header)
            ):
                return encoded
            if on_host is not None:
                on_host()
            return decode_pixels(encoded)
        if isinstance(payload, DeviceFrame):
            return payload
        if isinstance(payload, HostFrame):
            if self._accepts_frame is not None and self._accepts_frame(payload):
                return payload
            if on_host is not None:
                on_host()
            return payload.pixels()
        if isinstance(payload, ImageError):
            raise ImageError(str(payload))  # a fresh one: it may be on its way in two threads
        raise ImageError(f"the source brought no image but {type(payload).__name__}: {payload}")

    def place(self, image: Pixels | Encoded | HostFrame | DeviceFrame) -> Geometry:
        """Return where an image goes."""
        if isinstance(image, Encoded):
            header = image.header
            last, geometry = self._last_placed
            if header is not last or geometry is None:
                assert header.size is not None  # read_encoded refuses images without
                geometry = self._place(header.size)
                self._last_placed = header, geometry
            return geometry
        return self._place(image.size if isinstance(image, _FRAMES) else image.shape[:2])

    def write(
        self,
        image: Pixels | Encoded | HostFrame | DeviceFrame,
        geometry: Geometry,
        slot: Slot,
        position: int,
    ) -> None:
        """Bring an image to its place in a slot."""
        if isinstance(image, _PUT):
            slot.put(position, image, geometry)
        elif self._crop:
            classify_crop(image, slot.inputs[position])
        else:
            letterbox(image, geometry, slot.inputs[position])
            slot.place(position, geometry)

    def _place(self, size: Size) -> Geometry:
        geometry = self._placed.get(size)
        if geometry is None:
            if len(self._placed) >= SIZES_KEPT:
                self._placed.clear()
            geometry = self._placed[size] = self._policy.place(size)
        return geometry


def _checked(pixels: NDArray[Any]) -> Pixels:
    if pixels.dtype != np.uint8:
        raise ImageError(f"expected uint8 pixels, got {pixels.dtype}")
    shape = pixels.shape
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and shape[2] not in (1, 3)) or 0 in shape:
        raise ImageError(
            f"expected pixels (height, width, 3) in BGR or (height, width) gray, got {shape}"
        )
    return pixels
