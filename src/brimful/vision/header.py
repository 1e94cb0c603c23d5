"""Image headers: format, size and EXIF orientation from the first bytes, decoding nothing.

Layouts: JPEG after ITU-T T.81, PNG after the W3C specification (`eXIf` from its third edition),
WebP after Google's container specification and RFC 6386, BMP after Microsoft's BITMAPFILEHEADER,
TIFF after TIFF 6.0 and BigTIFF, orientation after EXIF 2.32 (tag 0x0112).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from brimful.spec import Size
from brimful.vision.rare_header import RareFormat, rare_header

ImageFormat = Literal["JPEG", "PNG", "WebP", "BMP", "TIFF"] | RareFormat
"""Formats that are decoded."""

_ORIENTATION_TAG = 0x0112
_WIDTH_TAG, _HEIGHT_TAG = 0x0100, 0x0101
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
# Bytes of a value of each type of EXIF, and the tags that OpenCV takes for so many fractions.
_EXIF_BYTES = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8), 1))
_FRACTION = 5
_FRACTIONS = {0x011A: 1, 0x011B: 1, 0x013E: 2, 0x013F: 6, 0x0211: 3, 0x0214: 6}
_MAX_TIFF_TAGS = 4096
# Segments of a JPEG and chunks of a PNG or a WebP. A file of nothing but the shortest ones would
# take the interpreter minutes; a real one of 500 MB has some 60,000.
_MAX_PARTS = 1 << 16
# SOF0..SOF15 without DHT (C4), JPG (C8) and DAC (CC), which share the range.
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_LENGTH = frozenset((0x01, *range(0xD0, 0xD9)))
# Segments to skip: DHT, DQT, DRI, comments, and every APPn but EXIF's APP1 and Adobe's APP14.
_SKIPPED = frozenset((0xC4, 0xDB, 0xDD, 0xE0, *range(0xE2, 0xEE), 0xEF, 0xFE))
_SEGMENT = struct.Struct(">BBH").unpack_from
_FRAME = struct.Struct(">HHB").unpack_from


# HostFrames of one camera or one program begin with the same bytes: what was read of them is kept.
_KEY = 192  # holds the size and the tables before it, where nothing else comes first
_LONGEST_KEPT = 4096
_KEPT = 256
_seen: dict[bytes, tuple[bytes, Header]] = {}


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an image says.

    Attributes:
        format: The container.
        stored: (height, width) as stored, before EXIF rotation; None when the header is damaged.
        orientation: EXIF orientation, 1 to 8; 1 without a tag.
        components: Colour components of a JPEG (1 gray, 3 colour, 4 CMYK), else 0.
        scan: Offset where the first scan of a JPEG starts, else 0.
        baseline: Whether it is a baseline JPEG (SOF0), the kind that devices decode.
        sampling: Of a JPEG in YCbCr, luma samples per chroma sample, (horizontal, vertical); None
            of any other, and where the two chroma components differ.
        sound: Whether a JPEG's EXIF is as it should be wherever it turns the image. OpenCV takes
            no orientation from some damaged ones, and has to be asked.
    """

    format: ImageFormat
    stored: Size | None
    orientation: int = 1
    components: int = 0
    scan: int = 0
    baseline: bool = False
    sampling: tuple[int, int] | None = None
    sound: bool = True

    @property
    def size(self) -> Size | None:
        """(height, width) after EXIF rotation."""
        if self.stored is None or self.orientation < 5:
            return self.stored
        return self.stored[1], self.stored[0]


def read_header(data: bytes | memoryview) -> Header | None:
    """Return the header of an encoded image, or None when it is none of the known formats.

    A damaged header gives a Header without a size: no exception leaves this function, and its
    time is bounded whatever the file claims.
    """
    try:
        if data[:3] == b"\xff\xd8\xff":
            return _jpeg(data)
        if isinstance(data, memoryview):
            data = bytes(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith(b"BM"):
            return _bmp(data)
        if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return Header("TIFF", *_tiff(data))
        rare = rare_header(data)
        return None if rare is None else Header(*rare)
    except (struct.error, IndexError, OverflowError):
        # The header is longer than the data, or an offset is more than an address can be.
        return Header(_format_of(bytes(data[:8])), None)


def read_size(data: bytes) -> Size | None:
    """Return (height, width) after EXIF rotation, from the header alone.

    Args:
        data: The encoded image, or as much of its beginning as there is: a JPEG with a large
            EXIF thumbnail may need 64 KiB and more.

    Returns:
        None when the format is unknown or the header is damaged.
    """
    header = read_header(data)
    return None if header is None else header.size


def _format_of(data: bytes) -> ImageFormat:
    """Return the format of data whose header is cut."""
    first: dict[bytes, ImageFormat] = {
        **{b"\xff\xd8": "JPEG", b"\x89P": "PNG", b"RI": "WebP", b"BM": "BMP", b"GI": "GIF"},
        **{b"\0\0": "AVIF", b"\xff\x4f": "JPEG 2000"},
    }
    if data.startswith(b"\0\0\0\x0cjP"):
        return "JPEG 2000"
    return first.get(data[:2], "TIFF")


def _jpeg(data: bytes | memoryview) -> Header:
    # Views are slow to compare.
    start = data if isinstance(data, bytes) else bytes(data[: _LONGEST_KEPT + 4])
    key = start[:_KEY]
    known = _seen.get(key)
    if known is not None and start.startswith(known[0]):
        return known[1]
    if isinstance(data, memoryview):
        data = bytes(data)
    header = _read_jpeg(data)
    if header.scan and header.scan <= _LONGEST_KEPT:
        if len(_seen) >= _KEPT:
            _seen.clear()
        # With the four bytes that showed where the scan starts: nothing behind them was read.
        _seen[key] = data[: header.scan + 4], header
    return header


def _read_jpeg(data: bytes) -> Header:
    size: Size | None = None
    baseline, is_ycc, sound = False, True, True
    sampling: tuple[int, int] | None = None
    orientation, components, at, end = 1, 0, 2, len(data)
    parts = exifs = 0
    while at + 4 <= end and parts < _MAX_PARTS:
        parts += 1
        prefix, marker, length = _SEGMENT(data, at)
        if prefix != 0xFF:  # libjpeg skips garbage between segments, so do we
            at = data.find(b"\xff", at)
            if at < 0:
                break
        elif marker in _SKIPPED and length >= 2:  # most of them
            at += 2 + length
        elif marker == 0xFF:  # fill byte
            at += 1
        elif marker in _WITHOUT_LENGTH or marker == 0:
            at += 2
        elif marker == 0xD9:
            break
        elif marker == 0xDA:
            if not is_ycc:
                sampling = None
            return Header("JPEG", size, orientation, components, at, baseline, sampling, sound)
        else:
            if marker in _SOF and at + 10 <= end:
                height, width, components = _FRAME(data, at + 5)
                size = (height, width)
                baseline = marker == 0xC0
                sampling = _sampling(data, at) if components == 3 else None
            elif marker == 0xEE and data[at + 4 : at + 9] == b"Adobe" and at + 16 <= end:
                if length >= 14:  # libjpeg ignores shorter ones
                    is_ycc = data[at + 15] == 1  # 0: stored as RGB
            elif marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
                exif = data[at + 10 : at + 2 + length]
                if orientation == 1:
                    orientation = _exif_orientation(exif)
                # With several it is not known here which one OpenCV takes.
                sound = orientation == 1 or (not exifs and _is_sound(exif))
                exifs += 1
            at += 2 + max(length, 2)
    return Header("JPEG", size, orientation, components, 0, baseline)


def _sampling(data: bytes, at: int) -> tuple[int, int] | None:
    """Return luma samples per chroma sample of the frame header that starts at `at`."""
    luma, blue, red = data[at + 11], data[at + 14], data[at + 17]
    if bytes((data[at + 10], data[at + 13], data[at + 16])) == b"RGB" or blue != red:
        return None
    across, down = blue >> 4, blue & 15
    if not across or not down or (luma >> 4) % across or (luma & 15) % down:
        return None
    return (luma >> 4) // across, (luma & 15) // down


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    if data[12:16] != b"IHDR":
        return Header("PNG", None)
    orientation, at = 1, 8
    for _ in range(_MAX_PARTS):
        if at + 8 > len(data):
            break
        (length,) = struct.unpack_from(">I", data, at)
        kind = data[at + 4 : at + 8]
        if kind == b"eXIf":
            orientation = _exif_orientation(data[at + 8 : at + 8 + length])
            break
        if kind == b"IEND":
            break
        at += 12 + length
    return Header("PNG", (height, width), orientation)


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return Header("WebP", (height & 0x3FFF, width & 0x3FFF))
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return Header("WebP", (((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1))
    if kind != b"VP8X":
        return Header("WebP", None)
    width = int.from_bytes(data[24:27], "little") + 1
    height = int.from_bytes(data[27:30], "little") + 1
    if len(data) < 30:
        return Header("WebP", None)
    orientation, at = 1, 12
    for _ in range(_MAX_PARTS):
        if at + 8 > len(data):
            break
        (length,) = struct.unpack_from("<I", data, at + 4)
        if data[at : at + 4] == b"EXIF":
            exif = data[at + 8 : at + 8 + length]
            orientation = _exif_orientation(exif.removeprefix(b"Exif\0\0"))
            break
        at += 8 + length + (length & 1)
    return Header("WebP", (height, width), orientation)


def _bmp(data: bytes) -> Header:
    (info,) = struct.unpack_from("<I", data, 14)
    if info == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return Header("BMP", (abs(height), abs(width)))  # a negative height: rows from the top down


def _tiff(data: bytes, *, cut: bool = False) -> tuple[Size | None, int]:
    """Return the stored size and the orientation from the first directory of a TIFF structure.

    Args:
        data: The structure.
        cut: Take what there is of a directory that the data cuts, as OpenCV does of EXIF.

    Raises:
        struct.error, OverflowError: The data ends before its directory does.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    entry_size, value_at, count_format, offset_format = (
        (20, 12, "Q", "Q") if big else (12, 8, "H", "I")
    )
    (at,) = struct.unpack_from(order + offset_format, data, 8 if big else 4)
    (count,) = struct.unpack_from(order + count_format, data, at)
    at += struct.calcsize(order + count_format)
    values: dict[int, int] = {}
    sizes: dict[int, int | None] = {}
    for entry in range(at, at + entry_size * min(count, _MAX_TIFF_TAGS), entry_size):
        if cut and entry + entry_size > len(data):
            break
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag == _ORIENTATION_TAG:  # a SHORT; OpenCV reads one whatever type the entry claims
            (value,) = struct.unpack_from(order + "H", data, entry + value_at)
            values.setdefault(tag, value)
        elif tag in (_WIDTH_TAG, _HEIGHT_TAG):
            # libtiff takes the first one of a tag, other readers the last one: with two of them
            # it would not be known which size is decoded. So it is with types it may not take.
            if tag in sizes or kind not in _TIFF_TYPES:
                sizes[tag] = None
            else:
                (sizes[tag],) = struct.unpack_from(
                    order + _TIFF_TYPES[kind], data, entry + value_at
                )
    orientation = values.get(_ORIENTATION_TAG, 1)
    height, width = sizes.get(_HEIGHT_TAG), sizes.get(_WIDTH_TAG)
    size = None if height is None or width is None else (height, width)
    return size, orientation if 1 <= orientation <= 8 else 1


def _exif_orientation(exif: bytes) -> int:
    # As OpenCV: whatever is not II is big-endian, and there is no BigTIFF.
    if exif[2:4] != (b"*\0" if exif[:2] == b"II" else b"\0*"):
        return 1
    try:
        return _tiff(exif, cut=True)[1]
    except (struct.error, OverflowError):  # as in `read_header`
        return 1


def _is_sound(exif: bytes) -> bool:
    """Whether all that the directory of EXIF names is there, as OpenCV has it."""
    order = "<" if exif[:2] == b"II" else ">"
    try:
        (at,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, at)
    except struct.error:
        return False
    end = len(exif)
    entries = exif[at + 2 : at + 2 + 12 * count]
    if len(entries) < 12 * count:
        return False
    for tag, kind, values, where in struct.iter_unpack(order + "HHII", entries):
        if kind not in _EXIF_BYTES:
            return False
        if tag in _FRACTIONS:
            if kind != _FRACTION:
                return False
            values = max(values, _FRACTIONS[tag])
        size = values * _EXIF_BYTES[kind]
        if size > 4 and where + size > end:
            return False
    return True
