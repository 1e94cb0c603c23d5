"""Decode: an encoded image to BGR pixels, bit for bit what `cv2.imread` returns.

JPEGs, which are nearly all, go through `brimful.vision.jpeg`; everything else goes through OpenCV,
HEIC excepted, which needs pillow-heif (extra `heif`). The content decides what an image is, never
its name. The size in the header is checked before a pixel is allocated, so a small file that
claims to be a huge host frame is refused and not decoded; and pixels that are more than the header
said are refused as well.

What counts as damaged. An image with data missing is an error and never a half-gray host frame: a
JPEG without its end marker or with a scan that ends early (older OpenCV fills the rest with
gray), a PNG without its IEND chunk, a WebP shorter than its RIFF header says, and whatever
OpenCV refuses. Harmless oddities that every viewer accepts are accepted: bytes after the end of
the image, extraneous bytes before a marker, wrong bits that cost a block of a JPEG; the pixels
are then OpenCV's.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from brimful.errors import ImageError, MissingExtraError, UsageError
from brimful.extras import require
from brimful.vision.encoded import Encoded
from brimful.vision.header import Header, read_header, read_size
from brimful.vision.jpeg import decode_jpeg
from brimful.vision.pixels import Pixels

__all__ = ["DecodeLimits", "decode", "decode_pixels", "read_encoded", "read_file", "read_size"]

MemoryFor = Callable[[int], memoryview | None]
"""Returns memory of so many bytes to read an image into, or None where there is none for it."""

_KNOWN = "JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF, JPEG 2000, HEIC or PNM"

# What is no image and found among them. Nothing else of a file's content is ever shown: a list may
# name any file.
_OTHERS = (
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"8BPS", "a Photoshop document"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file with `git lfs pull`"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"RIFF", "a RIFF file, such as AVI or WAV"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"<!DOCTYPE html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
    (b"\x93NUMPY", "a NumPy array"),
)

# Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_ORDINARY = 64 * 2**20  # a directory or a disk may claim any size


MAX_BYTES = 512 * 2**20
"""Of an encoded image, where nobody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """How large an image may be; beyond it an ImageError, before memory is taken.

    Attributes:
        max_pixels: Width times height.
        max_bytes: Size of the encoded image.
    """

    max_pixels: int = 200_000_000
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Refuse limits that would refuse every image."""
        if self.max_pixels < 1 or self.max_bytes < 1:
            raise UsageError(
                f"max_pixels {self.max_pixels} and max_bytes {self.max_bytes} must be at least 1"
            )


def decode(payload: str | Path | bytes, limits: DecodeLimits = DecodeLimits()) -> Pixels:
    """Read and decode an image, EXIF rotation applied.

    Args:
        payload: A file, or the encoded bytes.
        limits: What is too large.

    Returns:
        uint8 (height, width, 3) in BGR order, C-contiguous, owned by the caller: equal to
        `cv2.imread(path, cv2.IMREAD_COLOR)` (gray and alpha become colour, 16 bit become 8).

    Raises:
        ImageError: The file cannot be read, is no image, is damaged or exceeds the limits.
    """
    return decode_pixels(read_encoded(payload, limits))


def read_encoded(
    payload: str | Path | bytes,
    limits: DecodeLimits = DecodeLimits(),
    pinned_for: MemoryFor | None = None,
) -> Encoded:
    """Read an image and check all that can be checked without decoding it.

    Args:
        payload: A file, or the encoded bytes.
        limits: What is too large.
        pinned_for: Gives the memory to read a file into, as `Runtime.pinned_for`.

    Raises:
        ImageError: The file cannot be read, is no image, is visibly truncated or exceeds the
            limits.
    """
    if isinstance(payload, bytes):
        return check_encoded(payload, limits)
    return check_encoded(read_file(payload, limits, pinned_for), limits)


def check_encoded(data: bytes | memoryview, limits: DecodeLimits = DecodeLimits()) -> Encoded:
    """Check all that can be checked of an image without decoding it.

    Raises:
        ImageError: It is none, is visibly truncated or exceeds the limits.
    """
    if not data:
        raise ImageError("the image is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise ImageError(_too_many_bytes(len(data), limits))
    header = read_header(data)
    if header is None:
        raise ImageError(_unknown(data))
    _check_size(header, limits)
    _check_complete(data, header)
    return Encoded(data, header)


def decode_pixels(encoded: Encoded) -> Pixels:
    """Decode an image that was read; `decode` says to what.

    Raises:
        ImageError: It is damaged.
    """
    data, header = encoded.data, encoded.header
    pixels: Pixels | None = None
    if header.format == "JPEG":
        pixels = decode_jpeg(data, header)
    elif header.format == "HEIC":
        pixels = _decode_heic(data)
    if pixels is None:
        pixels = _decode_with_opencv(data, header)
    _check_decoded(pixels, header)
    return pixels


def read_file(
    path: str | Path, limits: DecodeLimits = DecodeLimits(), pinned_for: MemoryFor | None = None
) -> bytes | memoryview:
    """Read a whole file with one open and, on local disks, one read.

    Args:
        path: The file.
        limits: What is too large.
        pinned_for: Gives memory to read to, as `Runtime.pinned_for`; what it has none for, and
            what is no ordinary file, comes as bytes.

    Raises:
        ImageError: There is no such file, it is no regular file, it is unreadable or too large.
    """
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError) as error:
        raise ImageError(_cannot_open(error)) from None
    try:
        # An ordinary file is read with no more than its size asked for: a status costs the
        # interpreter more than the seek. Whatever looks odd is looked at again, with care.
        size = os.lseek(descriptor, 0, os.SEEK_END)
        if 0 < size <= min(limits.max_bytes, _ORDINARY):
            memory = None if pinned_for is None else pinned_for(size)
            if memory is not None:
                if os.preadv(descriptor, [memory], 0) == size:
                    return memory
                return _read_carefully(descriptor, limits)
            data = os.pread(descriptor, size, 0)
            if len(data) == size:
                return data
        return _read_carefully(descriptor, limits)
    except OSError:
        return _read_carefully(descriptor, limits)
    finally:
        os.close(descriptor)


def _read_carefully(descriptor: int, limits: DecodeLimits) -> bytes:
    """Read an open file, or say why it is none to read."""
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("this is a directory, expected an image file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("this is a device, pipe or socket, expected a regular file")
        if status.st_size > limits.max_bytes:
            raise ImageError(_too_many_bytes(status.st_size, limits))
        data = b""
        while len(data) < status.st_size:  # a signal or a network file system cuts reads short
            more = os.pread(descriptor, status.st_size - len(data), len(data))
            if not more:
                break
            data += more
        return data
    except OSError as error:
        raise ImageError(f"the file cannot be read: {error.strerror or error}") from None


def _decode_with_opencv(data: bytes | memoryview, header: Header) -> Pixels:
    try:
        pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ImageError(f"the {header.format} cannot be decoded: {error.err}") from None
    if pixels is None:
        raise ImageError(
            f"the {header.format} cannot be decoded: its data ({len(data)} bytes) is damaged, "
            "truncated or of a kind that OpenCV does not read"
        )
    return np.ascontiguousarray(pixels)


def _decode_heic(data: bytes | memoryview) -> Pixels:
    try:
        heif = require("pillow_heif", feature="decoding HEIC", extra="heif")
    except MissingExtraError as error:
        raise ImageError(str(error)) from None
    try:
        # With the rotation of the container applied, of which EXIF is a copy.
        image = heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True, bgr_mode=True)[0]
        pixels = np.asarray(image)
    except (OSError, ValueError, RuntimeError, SyntaxError, EOFError, IndexError) as error:
        raise ImageError(f"the HEIC cannot be decoded: {error}") from None
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, np.newaxis], 3, axis=2)
    return np.ascontiguousarray(pixels[:, :, :3], np.uint8)


def _check_decoded(pixels: Pixels, header: Header) -> None:
    """Refuse pixels that the header, and so the limit, said nothing of."""
    height, width = pixels.shape[:2]
    assert header.stored is not None  # an Encoded has a size
    if height * width > header.stored[0] * header.stored[1]:
        raise ImageError(
            f"the {header.format} says it is {header.stored[1]}x{header.stored[0]} and holds "
            f"{width}x{height}: its header is damaged or forged"
        )


def _check_size(header: Header, limits: DecodeLimits) -> None:
    if header.stored is None or 0 in header.stored:
        raise ImageError(
            f"the {header.format} has no valid size in its header: it is damaged, truncated or "
            "forged"
        )
    height, width = header.stored
    if height * width > limits.max_pixels:
        raise ImageError(
            f"the {header.format} says it is {width}x{height}, {height * width} pixels; "
            f"the limit (max_pixels) is {limits.max_pixels}"
        )


def _check_complete(data: bytes | memoryview, header: Header) -> None:
    """Refuse data that visibly misses its end, whatever the decoder would make of it."""
    if isinstance(data, memoryview):
        if header.format == "JPEG" and header.scan and bytes(data[-2:]) == b"\xff\xd9":
            return  # nearly all
        data = bytes(data)
    if header.format == "JPEG" and data.rfind(b"\xff\xd9") < max(header.scan, 2):
        what = "it has no image data" if not header.scan else "the end marker is missing"
        raise ImageError(f"the JPEG is truncated: {what} ({len(data)} bytes came)")
    if header.format == "PNG" and data.rfind(b"IEND") < 0:
        raise ImageError(f"the PNG is truncated: no IEND chunk ({len(data)} bytes came)")
    if header.format == "WebP":
        expected = int.from_bytes(data[4:8], "little") + 8
        if len(data) < expected:
            raise ImageError(f"the WebP is truncated: {len(data)} bytes came of {expected}")


def _too_many_bytes(size: int, limits: DecodeLimits) -> str:
    return f"the file has {size} bytes; the limit (max_bytes) is {limits.max_bytes}"


def _unknown(data: bytes | memoryview) -> str:
    start = bytes(data[:64])
    what = next((f", this is {name}" for magic, name in _OTHERS if start.startswith(magic)), "")
    if not what and start[4:8] == b"ftyp":
        what = ", this is a video or another file of the MP4 family"
    return f"this is not an image: expected {_KNOWN}{what}"


def _cannot_open(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return "there is no such file (or it vanished since it was listed)"
    if isinstance(error, PermissionError):
        return "permission denied: this user may not read the file"
    if isinstance(error, OSError):
        if error.errno == errno.ENXIO:
            return "this is a device, pipe or socket, expected a regular file"
        return f"the file cannot be opened: {error.strerror or error}"
    return f"the path is not valid: {error}"
