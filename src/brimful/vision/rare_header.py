"""Headers of rarer formats: GIF, AVIF, HEIC, JPEG 2000, and the PNM family.

Layouts: GIF after the GIF89a specification, AVIF and HEIC after ISO/IEC 14496-12 and 23008-12
(boxes; `ispe` holds a size), JPEG 2000 after ITU-T T.800 (`SIZ`), PBM to PPM and PAM after
Netpbm's manual pages, PFM after Debevec's.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Literal

from brimful.spec import Size

RareFormat = Literal["GIF", "AVIF", "HEIC", "JPEG 2000", "PNM"]
"""Formats that this file knows."""

_HEIC_BRANDS = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AVIF_BRANDS = frozenset((b"avif", b"avis"))
_GENERIC_BRANDS = frozenset((b"mif1", b"msf1", b"mif2"))  # of either
_MAX_BOXES = 4096
_JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
_J2K = b"\xff\x4f\xff\x51"  # SOC and SIZ, which has to follow it
_PNM_HEADER = 4096  # bytes, with its comments
_COMMENT = re.compile(rb"#[^\n]*")
# Whitespace has to follow the magic: text may begin with P2 as well.
_PNM = re.compile(rb"P(?:[1-6Ff])[\s#]|P7\n")


def rare_header(data: bytes) -> tuple[RareFormat, Size | None] | None:
    """Return the format of an encoded image and its (height, width) as stored.

    The size is None where the header is damaged.

    Returns:
        None when it is none of these formats.

    Raises:
        struct.error, IndexError: The header is longer than the data.
    """
    if data[:6] in (b"GIF87a", b"GIF89a"):
        width, height = struct.unpack_from("<HH", data, 6)
        return "GIF", (height, width)
    if data.startswith(_JP2):
        return "JPEG 2000", _jp2(data)
    if data.startswith(_J2K):
        return "JPEG 2000", _codestream(data, 0)
    if data[4:8] == b"ftyp":
        kind = _brand(data)
        return None if kind is None else (kind, _largest_ispe(data))
    if _PNM.match(data):
        return "PNM", _pnm(data)
    return None


def _brand(data: bytes) -> Literal["AVIF", "HEIC"] | None:
    """Tell which images a file of boxes holds; videos are such files, too."""
    (size,) = struct.unpack_from(">I", data)
    text = data[8 : min(size, 256)]
    brands = [text[at : at + 4] for at in range(0, len(text), 4) if at != 4]  # 4: the version
    if brands and brands[0] not in _AVIF_BRANDS | _HEIC_BRANDS | _GENERIC_BRANDS:
        return None
    if not _AVIF_BRANDS.isdisjoint(brands):
        return "AVIF"
    return None if _HEIC_BRANDS.isdisjoint(brands) else "HEIC"


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box between two offsets, and where its content begins and ends."""
    end = min(end, len(data))
    for _ in range(_MAX_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        begin = at + 8
        if size == 1:
            if begin + 8 > end:
                return
            (size,) = struct.unpack_from(">Q", data, begin)
            begin += 8
        stop = end if size == 0 else at + size
        if stop < begin:
            return
        yield kind, begin, min(stop, end)
        at = stop


def _largest_ispe(data: bytes) -> Size | None:
    """Return the largest size of all images in a file: the host frame, its tiles and thumbnails."""
    found: Size | None = None
    for kind, begin, end in _boxes(data, 0, len(data)):
        if kind != b"meta":
            continue
        for below, first, last in _boxes(data, begin + 4, end):  # 4: version and flags
            if below != b"iprp":
                continue
            for properties, start, stop in _boxes(data, first, last):
                if properties != b"ipco":
                    continue
                for name, at, after in _boxes(data, start, stop):
                    if name == b"ispe" and after - at >= 12:
                        width, height = struct.unpack_from(">II", data, at + 4)
                        if found is None or width * height > found[0] * found[1]:
                            found = height, width
    return found


def _jp2(data: bytes) -> Size | None:
    for kind, begin, _ in _boxes(data, 0, len(data)):
        if kind == b"jp2c":
            return _codestream(data, begin)
    return None


def _codestream(data: bytes, at: int) -> Size | None:
    if data[at : at + 4] != _J2K:
        return None
    right, bottom, left, top = struct.unpack_from(">4I", data, at + 8)
    return None if right <= left or bottom <= top else (bottom - top, right - left)


def _pnm(data: bytes) -> Size | None:
    head = _COMMENT.sub(b" ", data[:_PNM_HEADER])
    if head.startswith(b"P7"):
        sides = [re.search(rb"\b" + name + rb"\s+(\d{1,9})\s", head) for name in _PAM_SIDES]
        numbers = [int(side[1]) for side in sides if side is not None]
    else:
        plain = re.match(rb"P.\s+(\d{1,9})\s+(\d{1,9})\s", head)
        numbers = [] if plain is None else [int(plain[2]), int(plain[1])]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


_PAM_SIDES = b"HEIGHT", b"WIDTH"
