"""JPEGs that are odd, damaged or rotated: OpenCV's pixels, and nothing on standard error."""

from __future__ import annotations

import io
import random

import cv2
import numpy as np
import pytest
from PIL import Image

from brimful.errors import ImageError
from brimful.vision.decode import decode


def jpeg(orientation: int = 1, mode: str = "RGB", **options) -> bytes:
    coarse = np.random.default_rng(3).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(cv2.resize(coarse, (56, 40))).convert(mode)
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x0112] = orientation
    exif[0x011A] = 72.0
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif, **options)
    return buffer.getvalue()


def opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


@pytest.mark.parametrize("orientation", [1, 6])
def test_odd_and_damaged_ones_leave_standard_error_alone(capfd, orientation):
    data = jpeg(orientation)
    begin = data.index(b"\xff\xdb")  # behind EXIF
    choose = random.Random(2)
    found, refused = [], 0
    variants = [data[:-2] + b"\x12\x34\x56\x78" + data[-2:]]
    for _ in range(150):
        copy = bytearray(data)
        copy[choose.randrange(begin, len(data) - 2)] = choose.randrange(256)
        variants.append(bytes(copy))
    for variant in variants:
        try:
            found.append((variant, decode(variant)))
        except ImageError:
            refused += 1
    assert capfd.readouterr().err == ""
    assert len(found) > 20 and refused > 5
    noise = 0
    for variant, pixels in found:
        np.testing.assert_array_equal(pixels, opencv(variant))
        noise += bool(capfd.readouterr().err)
    assert noise > 5, "OpenCV had something to say of them"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_truncation_is_seen_whatever_the_rotation(orientation, mode):
    """OpenCV fills them up and does not tell. Some tools close a torn file with an end marker."""
    data = jpeg(orientation, mode)
    np.testing.assert_array_equal(decode(data), opencv(data))
    with pytest.raises(ImageError, match="truncated"):
        decode(data[: len(data) * 9 // 10] + b"\xff\xd9")


def test_damaged_exif_is_read_as_opencv_reads_it(capfd):
    choose = random.Random(4)
    originals = [jpeg(orientation) for orientation in range(1, 9)]
    compared = 0
    for _ in range(6000):
        data = bytearray(choose.choice(originals))
        at = data.index(b"Exif")
        for _ in range(choose.randint(1, 3)):
            data[choose.randrange(at - 4, at + 80)] = choose.choice((0, 1, 6, 255, 0x12, 77))
        try:
            pixels = decode(bytes(data))
        except ImageError:
            continue
        np.testing.assert_array_equal(pixels, opencv(bytes(data)))
        compared += 1
    assert compared > 3000


def test_a_rotated_one_takes_the_fast_path(monkeypatch):
    data = jpeg(6)
    expected = opencv(data)
    decoded = []
    real = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda d, f: decoded.append(real(d, f)) or decoded[-1])
    np.testing.assert_array_equal(decode(data), expected)
    assert all(pixels.size < expected.size for pixels in decoded), "a small picture, for its EXIF"
