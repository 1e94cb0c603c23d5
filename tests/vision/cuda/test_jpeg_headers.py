"""Whether the JPEG kernels take a header is libjpeg's to say; their result is the CPU path's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import simplejpeg

from brimful.errors import ImageError
from brimful.vision.cuda.jpeg import GOOD, JpegDecoder
from brimful.vision.decode import check_encoded, decode
from brimful.vision.geometry import Geometry
from brimful.vision.header import read_header
from broken_headers import (
    ADOBE,
    EXIF,
    FRAME,
    INTERVAL,
    JFIF,
    SCAN,
    TABLES,
    Broken,
    Segment,
    broken_jpegs,
    parts_of,
)
from jpegs import FACTORS, decoded, encoded, picture
from shared_files import shared

LARGEST = 10**6
"""Pixels: a broken header may say that there are many more."""


def on_device(data: bytes) -> np.ndarray | None:
    """The upright pixels in BGR that the device makes of a file; None where the CPU decodes it."""
    header = check_encoded(data).header
    assert header.stored is not None and header.size is not None
    if not JpegDecoder.takes(header) or header.stored[0] * header.stored[1] > LARGEST:
        return None
    whole = Geometry(header.size, header.size, header.size, 0, 0)
    found = decoded(data, whole)
    return np.round(found.placed(whole) * 255)[..., ::-1] if found.status == GOOD else None


def assert_left_to_the_cpu(data: bytes) -> None:
    """Expect that the device refuses a file, and that it would have had a reason to."""
    with pytest.raises(ValueError, match=r"."):
        simplejpeg.decode_jpeg(data, "BGR", strict=True)
    assert on_device(data) is None


def assert_decoded(data: bytes) -> None:
    pixels = on_device(data)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, decode(data))


def colour() -> Broken:
    return parts_of(encoded(picture((40, 56)), QUALITY=85, SAMPLING_FACTOR=FACTORS["420"]))


def gray() -> Broken:
    return parts_of(encoded(picture((40, 56))[..., 0].copy(), QUALITY=85))


def only(broken: Broken, marker: int) -> Segment:
    return next(segment for segment in broken.segments if segment.marker == marker)


def before_scan(broken: Broken, segment: Segment) -> bytes:
    broken.segments.insert(-1, segment)
    return broken.packed()


@pytest.mark.parametrize("seed", range(4))
def test_what_the_device_takes_libjpeg_takes(seed: int) -> None:
    """Broken at random: where the CPU has an error, or other pixels, the device must refuse."""
    seen: Counter[str] = Counter()
    for damages, data in broken_jpegs(seed, 1500):
        try:
            pixels = on_device(data)
        except ImageError:
            continue
        seen["taken" if pixels is not None else "left"] += 1
        if pixels is None:
            continue
        try:
            simplejpeg.decode_jpeg(data, "BGR", strict=True)
            expected = decode(data)
        except (ValueError, ImageError) as error:
            pytest.fail(f"{damages}: the CPU says {error}: {data.hex()}")
        np.testing.assert_array_equal(pixels, expected, f"{damages}: {data.hex()}")
    assert seen["taken"] > 300 and seen["left"] > 600


@pytest.mark.parametrize("kind", [0x00, 0x11])
def test_a_code_of_ones_is_refused(kind: int) -> None:
    """One code more of the longest ones uses up all that there are; the scan has none of it."""
    broken = colour()
    table = next(
        segment.content
        for segment in broken.segments
        if segment.marker == TABLES and segment.content[0] == kind
    )
    longest = max(i for i in range(1, 17) if table[i])
    left = (1 << longest) - sum(table[i] << (longest - i) for i in range(1, longest + 1))
    assert left > 0
    table[longest] += left - 1
    table += bytes(left - 1)
    assert_decoded(broken.packed())
    table[longest] += 1
    table += bytes(1)
    assert_left_to_the_cpu(broken.packed())


@pytest.mark.parametrize("symbol", [16, 17, 0x1B, 255])
def test_a_difference_of_dc_of_more_than_15_bits_is_refused(symbol: int) -> None:
    for place in (-1, -2):  # such differences are larger than any of the scan
        broken = gray()
        table = only(broken, TABLES).content
        assert table[0] == 0
        table[place] = 15
        assert_decoded(broken.packed())
        table[place] = symbol
        assert_left_to_the_cpu(broken.packed())


@pytest.mark.parametrize("marker", [FRAME, SCAN])
@pytest.mark.parametrize("more", [1, 3])
def test_a_segment_that_is_longer_than_it_need_be_is_refused(marker: int, more: int) -> None:
    broken = colour()
    only(broken, marker).content += bytes(more)
    assert_left_to_the_cpu(broken.packed())


@pytest.mark.parametrize("length", [0, 1, 3, 4])
def test_a_restart_interval_has_two_bytes(length: int) -> None:
    assert_decoded(before_scan(colour(), Segment(INTERVAL, bytearray(2))))
    assert_left_to_the_cpu(before_scan(colour(), Segment(INTERVAL, bytearray(length))))


@pytest.mark.parametrize("marker", [0x02, 0x99, 0xBF, 0xC8, 0xDE, 0xDF, 0xF0, 0xF5, 0xFD])
def test_markers_without_a_meaning_are_refused(marker: int) -> None:
    assert_left_to_the_cpu(before_scan(colour(), Segment(marker, bytearray(8))))


@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
def test_comments_and_what_applications_say_are_skipped(marker: int) -> None:
    assert_decoded(before_scan(colour(), Segment(marker, bytearray(b"anything at all"))))


@pytest.mark.parametrize("zero", [0x00, 0x01, 0xD3])
def test_a_marker_without_a_length_is_not_skipped_as_a_segment(zero: int) -> None:
    """libjpeg warns of the zero, and goes on two bytes later."""
    assert on_device(before_scan(colour(), Segment(zero, bytearray(8)))) is None


@pytest.mark.parametrize("factors", [0x00, 0x01, 0x10, 0x51, 0x15, 0xFF])
def test_sampling_factors_that_cannot_be_are_refused(factors: int) -> None:
    broken = gray()
    for possible in (0x11, 0x34, 0x44):
        only(broken, FRAME).content[7] = possible
        assert_decoded(broken.packed())
    only(broken, FRAME).content[7] = factors
    assert_left_to_the_cpu(broken.packed())


@pytest.mark.parametrize(
    ("extra", "taken"),
    [
        (b"", True),
        (b"\xff\xff", True),
        (Segment(0x99, bytearray(4)).packed(), False),
        (Segment(FRAME, bytearray(15)).packed(), False),
        (Segment(SCAN, bytearray(10)).packed(), False),
        (b"\xff\xd8", False),
    ],
    ids=["nothing", "fill", "unknown", "frame", "scan", "start"],
)
def test_the_image_ends_behind_its_scan(extra: bytes, taken: bool) -> None:
    """libjpeg looks for the end marker when it has all the pixels, and may have an error then."""
    broken = colour()
    broken.behind = extra + broken.behind
    if taken:
        assert_decoded(broken.packed())
    else:
        assert_left_to_the_cpu(broken.packed())


def test_an_image_may_be_followed_by_anything() -> None:
    broken = colour()
    broken.behind += encoded(picture((8, 8)))
    assert_decoded(broken.packed())


def test_a_side_of_65501_is_refused() -> None:
    for width, taken in ((65500, True), (65501, False)):
        data = encoded(np.full((8, 65500), 90, np.uint8))
        broken = parts_of(data)
        only(broken, FRAME).content[3:5] = width.to_bytes(2, "big")
        if taken:
            assert_decoded(broken.packed())
        else:
            assert_left_to_the_cpu(broken.packed())


def test_jfif_of_another_version_is_refused() -> None:
    broken = colour()
    for version, taken in ((1, True), (2, False), (0, False)):
        only(broken, JFIF).content[5] = version
        if taken:
            assert_decoded(broken.packed())
        else:
            assert_left_to_the_cpu(broken.packed())


def test_adobe_that_is_too_short_says_nothing_of_the_colours() -> None:
    """Of two of them libjpeg ignores the second, and by the first the pixels are RGB."""
    broken = colour()
    broken.segments.remove(only(broken, JFIF))
    rgb = bytearray(b"Adobe" + bytes(7))
    broken.segments.insert(0, Segment(ADOBE, rgb))
    cut = Segment(ADOBE, bytearray(b"Adobe" + bytes(6)))
    follows = Segment(0xFE, bytearray(1), before=b"\x01")  # where the transform would be
    broken.segments[1:1] = [cut, follows]
    assert on_device(broken.packed()) is None
    for name in (broken.segments[0], cut):
        name.content[11:] = b"\x01"
    follows.before = b""
    assert_decoded(broken.packed())


def exif(orientation: int, **values: int) -> Segment:
    """EXIF with a maker's name, an orientation and a resolution."""
    entries = {
        0x010F: (2, 6, values.get("maker", 50)),
        0x0112: (3, 1, orientation << 16),
        0x011A: (values.get("kind", 5), 1, values.get("resolution", 56)),
    }
    content = b"Exif\0\0MM\0*\0\0\0\x08" + len(entries).to_bytes(2, "big")
    for tag, (kind, count, value) in entries.items():
        content += tag.to_bytes(2, "big") + kind.to_bytes(2, "big")
        content += count.to_bytes(4, "big") + value.to_bytes(4, "big")
    return Segment(
        EXIF, bytearray(content + bytes(4) + b"maker\0" + bytes([0, 0, 0, 72, 0, 0, 0, 1]))
    )


@pytest.mark.parametrize(
    "damage", [{"maker": 90}, {"kind": 3}, {"resolution": 60}, {"maker": 2**32 - 1}], ids=str
)
def test_an_image_that_damaged_exif_turns_is_left_to_the_cpu(damage: dict[str, int]) -> None:
    """OpenCV, which the CPU path asks, turns some of them and others not."""
    for orientation in range(1, 9):
        broken = colour()
        broken.segments.insert(0, exif(orientation))
        assert_decoded(broken.packed())
        broken.segments[0] = exif(orientation, **damage)
        pixels = on_device(broken.packed())
        assert (pixels is None) == (orientation != 1)
        if pixels is not None:
            np.testing.assert_array_equal(pixels, decode(broken.packed()))


def test_an_image_with_two_exif_is_left_to_the_cpu_where_one_turns_it() -> None:
    for first, second in ((1, 6), (6, 1), (3, 6), (0, 6), (1, 1)):
        broken = colour()
        broken.segments[:0] = [exif(first), exif(second)]
        header = read_header(broken.packed())
        assert header is not None and JpegDecoder.takes(header) == (first == second == 1)


def test_files_that_fuzzing_found() -> None:
    for path in sorted(shared("hostile").glob("gpu-accepts-libjpeg-refuses-*")):
        data = path.read_bytes()
        with pytest.raises(ImageError):
            decode(data)
        assert on_device(data) is None, path.name
