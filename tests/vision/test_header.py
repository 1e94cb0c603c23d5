"""Headers made to harm: whatever a file claims, a header is returned, and in time."""

from __future__ import annotations

import io
import random
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from brimful.errors import ImageError
from brimful.vision.decode import decode
from brimful.vision.header import Header, read_header, read_size

HOSTILE = Path(__file__).parents[3] / "shared" / "hostile"

BEYOND = b"II+\0" + struct.pack("<HHQ", 8, 0, 2**64 - 1)
"""A BigTIFF whose first directory is where no memory can be."""


def host_frame() -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(cv2.resize(rng.integers(0, 256, (5, 7, 3), np.uint8), (56, 40)))


def pillow(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    host_frame().save(buffer, kind, **options)
    return buffer.getvalue()


def samples() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = [pillow(kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP", "TIFF")]
    encoded += [pillow(kind) for kind in ("GIF", "BMP", "PPM", "JPEG2000")]
    encoded.append(pillow("TIFF", big_tiff=True))
    encoded.append(cv2.imencode(".pam", np.asarray(host_frame()))[1].tobytes())
    return encoded


def with_exif(kind: str, exif: bytes) -> bytes:
    if kind == "TIFF":
        return exif
    if kind == "JPEG":
        data = pillow("JPEG")
        body = b"Exif\0\0" + exif
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    if kind == "PNG":
        data = pillow("PNG")
        chunk = b"eXIf" + exif
        chunk = struct.pack(">I", len(exif)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        return data[:33] + chunk + data[33:]
    return pillow("WEBP", exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("exif", [BEYOND, b"MM\0+" + struct.pack(">HHQ", 8, 0, 2**64 - 1)])
def test_an_offset_beyond_memory_is_damage(kind, exif):
    header = read_header(with_exif(kind, exif))
    assert header is not None and header.orientation == 1
    assert header.stored == (None if kind == "TIFF" else (40, 56))


def test_hostile_files():
    files = sorted(HOSTILE.glob("bigtiff*"))
    if not files:
        pytest.skip("no hostile files at ../shared")
    for file in files:
        assert isinstance(read_header(file.read_bytes()), Header)
        with suppress(ImageError):
            decode(file)


def test_random_damage_never_raises():
    choose = random.Random(7)
    numbers = [b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\xff" * 7 + b"\x7f", b"\xff" * 4]
    numbers += [bytes(4), b"\x80\0\0\0", b"\xff\xff", BEYOND]
    encoded = samples()
    for _ in range(20_000):
        data = bytearray(choose.choice(encoded))
        for _ in range(choose.randint(1, 3)):
            at = choose.randrange(min(len(data), 240))
            number = choose.choice(numbers) if choose.random() < 0.5 else choose.randbytes(1)
            data[at : at + len(number)] = number
        header = read_header(bytes(data))
        assert header is None or isinstance(header, Header)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 3_000_000,
        b"\xff\xd8\xff" + b"\x01\xff" * 1_500_000,
        b"\xff\xd8" + b"\xff\xfe\0\0" * 750_000,
        pillow("PNG")[:33] + bytes(3_000_000),
        b"RIFF\0\0\0\0WEBPVP8X" + struct.pack("<I", 10) + bytes(3_000_010),
        b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 400_000,
    ],
    ids=["fill", "markers", "segments", "chunks", "riff", "boxes"],
)
def test_the_parts_of_a_file_are_not_counted_without_end(data, monkeypatch):
    """A file of 500 MB may hold 250 million of the shortest parts."""
    looked = 0

    from brimful.vision import header, rare_header

    unpack = struct.unpack_from

    def counted(*arguments):
        nonlocal looked
        looked += 1
        return unpack(*arguments)

    monkeypatch.setattr(header, "_SEGMENT", lambda *a: counted(">BBH", *a))
    monkeypatch.setattr(header.struct, "unpack_from", counted)
    monkeypatch.setattr(rare_header.struct, "unpack_from", counted)
    assert read_header(data) is not None
    assert 100 < looked < 140_000


def tiff_with(*entries: tuple[int, int, int, int]) -> bytes:
    """Return Pillow's TIFF of 56x40 with more entries at the end of its directory."""
    data = pillow("TIFF")
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    end = at + 2 + 12 * count
    directory = struct.pack("<H", count + len(entries)) + data[at + 2 : end]
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return data[:4] + struct.pack("<I", len(data)) + data[8:] + directory


@pytest.mark.parametrize("tag", [0x0100, 0x0101])
@pytest.mark.parametrize("kind", [1, 3, 4])
def test_a_tiff_with_two_sizes_is_refused(tag, kind):
    """libtiff decodes by the first one, and its last one could be within the limit."""
    assert read_size(tiff_with()) == (40, 56)
    data = tiff_with((tag, kind, 1, 1))
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (40, 56, 3), "what libtiff makes of it"
    with pytest.raises(ImageError, match="the TIFF has no valid size"):
        decode(data)


def test_the_tiffs_with_two_widths_are_refused():
    files = sorted(HOSTILE.glob("two-widths*"))
    if not files:
        pytest.skip("no hostile files at ../shared")
    for file in files:
        with pytest.raises(ImageError, match="the TIFF has no valid size"):
            decode(file)


def test_a_png_whose_size_is_not_its_first_chunk_is_refused():
    chunk = b"IDAX" + struct.pack(">II", 1, 1)
    chunk = struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = pillow("PNG")
    with pytest.raises(ImageError, match="the PNG has no valid size"):
        decode(data[:8] + chunk + data[8:])


@pytest.mark.parametrize("order", [b"II", b"MM", b"\0\0", b"IM", b"\xff\xff"])
@pytest.mark.parametrize("mark", [42, 43])
def test_the_byte_order_of_exif_is_read_as_opencv_reads_it(tmp_path, order, mark):
    sign = "<" if order == b"II" else ">"
    exif = order + struct.pack(sign + "HIHHHIHHI", mark, 8, 1, 0x0112, 3, 1, 6, 0, 0)
    data = with_exif("JPEG", exif)
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    np.testing.assert_array_equal(decode(data), cv2.imread(str(path), cv2.IMREAD_COLOR))
    assert read_size(data) == decode(data).shape[:2]


def test_more_pixels_than_the_header_said_are_refused(monkeypatch):
    for kind in ("PNG", "WEBP", "TIFF", "BMP", "GIF"):
        data = pillow(kind)
        monkeypatch.setattr(cv2, "imdecode", lambda *a: np.zeros((41, 56, 3), np.uint8))
        with pytest.raises(ImageError, match="says it is 56x40 and holds 56x41"):
            decode(data)
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *a: np.zeros((41, 56, 3), np.uint8))
    with pytest.raises(ImageError, match="says it is 56x40 and holds 56x41"):
        decode(pillow("JPEG"))
