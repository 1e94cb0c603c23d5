"""decode against cv2.imread, bit for bit, and every way a file can be bad."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from brimful.errors import ImageError, UsageError
from brimful.vision import header as header_module
from brimful.vision.decode import DecodeLimits, decode, read_size
from brimful.vision.header import read_header
from shared_files import shared

SAMPLING = {
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
SIZES = [(1, 1), (2, 3), (7, 9), (16, 16), (33, 47), (101, 64), (123, 217)]


def host_frame(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth colour with noise on it: compressible, and different in every pixel."""
    rng = np.random.default_rng(height * 1000 + width)
    coarse = rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, channels), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    smooth = smooth.reshape(height, width, channels).astype(int)
    return np.clip(smooth + rng.integers(-20, 20, smooth.shape), 0, 255).astype(np.uint8)


def pillow(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check_equal(tmp_path: Path, data: bytes) -> np.ndarray:
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    expected = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert expected is not None
    for payload in (path, data):
        pixels = decode(payload)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        np.testing.assert_array_equal(pixels, expected)
    assert read_size(data) == expected.shape[:2]
    return pixels


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("progressive", [0, 1])
def test_jpeg_equals_imread(tmp_path, sampling, progressive):
    for (height, width), quality, restart in zip(
        SIZES, (30, 60, 75, 90, 95, 100, 80), (0, 3, 0, 1, 0, 2, 0), strict=True
    ):
        flags = [
            *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling]),
            *(cv2.IMWRITE_JPEG_PROGRESSIVE, progressive),
            *(cv2.IMWRITE_JPEG_QUALITY, quality),
            *(cv2.IMWRITE_JPEG_RST_INTERVAL, restart),
        ]
        check_equal(tmp_path, cv2.imencode(".jpg", host_frame(height, width), flags)[1].tobytes())


@pytest.mark.parametrize("size", SIZES)
def test_gray_rgb_and_cmyk_jpeg_equal_imread(tmp_path, size):
    image = Image.fromarray(host_frame(*size))
    check_equal(tmp_path, pillow(image.convert("L"), "JPEG"))
    check_equal(tmp_path, pillow(image.convert("L"), "JPEG", progressive=True))
    check_equal(tmp_path, pillow(image, "JPEG", keep_rgb=True, subsampling=0))
    check_equal(tmp_path, pillow(image.convert("CMYK"), "JPEG"))


def test_ordinary_jpeg_takes_the_fast_path(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("OpenCV was asked")

    monkeypatch.setattr(cv2, "imdecode", refuse)
    assert decode(pillow(Image.fromarray(host_frame(40, 50)), "JPEG")).shape == (40, 50, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_equals_imread(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = pillow(Image.fromarray(host_frame(40, 56)), kind, exif=exif)
    if kind == "TIFF" and orientation > 4:
        # imread of OpenCV 5.0 fails on these (its imdecode does not), so Pillow is the oracle.
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        pixels = decode(data)
        np.testing.assert_array_equal(pixels, np.asarray(upright)[:, :, ::-1])
        assert read_size(data) == pixels.shape[:2]
    else:
        pixels = check_equal(tmp_path, data)
    assert pixels.shape == ((56, 40, 3) if orientation > 4 else (40, 56, 3))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind,value", [(1, "B"), (3, "H"), (4, "I"), (9, "i")])
def test_orientation_of_odd_types_equals_imread(tmp_path, order, kind, value):
    for orientation in (0, 1, 6, 9, 77):
        field = struct.pack(order + value, orientation).ljust(4, b"\0")
        tiff = struct.pack(order + "HIHHHI", 42, 8, 1, 0x0112, kind, 1) + field + bytes(4)
        exif = b"Exif\0\0" + (b"II" if order == "<" else b"MM") + tiff
        jpeg = pillow(Image.fromarray(host_frame(24, 40)), "JPEG")
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        data = jpeg[:2] + segment + jpeg[2:]
        path = tmp_path / "image.jpg"
        path.write_bytes(data)
        np.testing.assert_array_equal(decode(data), cv2.imread(str(path), cv2.IMREAD_COLOR))


def test_png_webp_bmp_tiff_equal_imread(tmp_path):
    for size in SIZES:
        colour = host_frame(*size)
        alpha = host_frame(*size, channels=4)
        for suffix in (".png", ".webp", ".bmp", ".tiff"):
            check_equal(tmp_path, cv2.imencode(suffix, colour)[1].tobytes())
            check_equal(tmp_path, cv2.imencode(suffix, alpha)[1].tobytes())
        for suffix in (".png", ".bmp", ".tiff"):
            check_equal(tmp_path, cv2.imencode(suffix, colour[:, :, 0])[1].tobytes())
        deep = colour.astype(np.uint16) * 257 + 11
        for suffix in (".png", ".tiff"):
            check_equal(tmp_path, cv2.imencode(suffix, deep)[1].tobytes())
            check_equal(tmp_path, cv2.imencode(suffix, deep[:, :, 0])[1].tobytes())
        image = Image.fromarray(colour)
        check_equal(tmp_path, pillow(image.convert("P"), "PNG"))
        check_equal(tmp_path, pillow(image.convert("1"), "PNG"))
        check_equal(tmp_path, pillow(image.convert("LA"), "PNG"))
        check_equal(tmp_path, pillow(image, "WEBP", lossless=True))
        check_equal(tmp_path, pillow(image, "WEBP", quality=40))
        check_equal(tmp_path, pillow(image, "TIFF", compression="tiff_lzw"))
        check_equal(tmp_path, pillow(image, "TIFF", big_tiff=True))


def test_real_photos_equal_imread(tmp_path):
    folders = shared("photos"), shared("voc100", "images")
    photos = [photo for folder in folders for photo in sorted(folder.glob("*.jpg"))]
    assert photos
    for photo in photos[:25]:
        check_equal(tmp_path, photo.read_bytes())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_every_truncation_is_an_error(suffix):
    data = cv2.imencode(suffix, host_frame(40, 56))[1].tobytes()
    cuts = {*range(0, 64), *range(64, len(data), 97), *range(len(data) - 30, len(data))}
    for cut in sorted(cuts):
        with pytest.raises(ImageError):
            decode(data[:cut])


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_truncated_jpeg_with_an_end_marker_put_back_says_truncated(progressive, mode):
    """Some tools close a torn file with an end marker; the host frame is half gray all the same."""
    image = Image.fromarray(host_frame(120, 200)).convert(mode)
    data = pillow(image, "JPEG", progressive=progressive)
    with pytest.raises(ImageError, match=r"truncated"):
        decode(data[: len(data) // 2])
    if mode != "CMYK":  # OpenCV alone decodes those, and it does not tell
        with pytest.raises(ImageError, match=r"truncated"):
            decode(data[: len(data) // 3] + b"\xff\xd9")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_trailing_garbage_is_harmless(tmp_path, suffix):
    data = cv2.imencode(suffix, host_frame(40, 56))[1].tobytes()
    check_equal(tmp_path, data + b"garbage" * 100)


def test_extraneous_bytes_before_a_marker_follow_imread(tmp_path):
    data = pillow(Image.fromarray(host_frame(40, 56)), "JPEG")
    check_equal(tmp_path, data[:-2] + b"\x12\x34\x56\x78" + data[-2:])


def test_random_damage_follows_imread_or_is_an_error(tmp_path):
    """Never other pixels than OpenCV's, never another exception, never a crash."""
    rng = np.random.default_rng(5)
    path = tmp_path / "image.bin"
    equal = 0
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff"):
        data = cv2.imencode(suffix, host_frame(48, 64))[1].tobytes()
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), rng.integers(1, 4)):
                damaged[at] = rng.integers(256)
            try:
                pixels = decode(bytes(damaged))
            except ImageError:
                continue
            path.write_bytes(damaged)
            np.testing.assert_array_equal(pixels, cv2.imread(str(path), cv2.IMREAD_COLOR))
            equal += 1
    assert equal > 20


def png_of(height: int, width: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(b""), b"IEND"]
    body = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def bombs() -> dict[str, bytes]:
    jpeg = bytearray(pillow(Image.fromarray(host_frame(16, 16)), "JPEG"))
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60000, 60000)
    bmp = bytearray(cv2.imencode(".bmp", host_frame(16, 16))[1].tobytes())
    bmp[18:26] = struct.pack("<ii", 60000, -60000)
    tiff = bytearray(pillow(Image.fromarray(host_frame(16, 16)), "TIFF"))
    for tag in (0x0100, 0x0101):
        at = tiff.index(struct.pack("<HH", tag, 4))
        tiff[at + 8 : at + 12] = struct.pack("<I", 60000)
    return {
        "PNG": png_of(60000, 60000),
        "JPEG": bytes(jpeg),
        "BMP": bytes(bmp),
        "WebP": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x5f\xea\0\x5f\xea\0",
        "TIFF": bytes(tiff),
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WebP", "TIFF"])
def test_decompression_bomb_is_refused_before_decoding(kind, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("it was decoded"))
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *arguments: pytest.fail("decoded"))
    data = bombs()[kind]
    assert read_size(data) == (60000, 60000)
    with pytest.raises(ImageError, match=rf"{kind} says it is 60000x60000.*200000000"):
        decode(data)


def test_limits():
    data = pillow(Image.fromarray(host_frame(20, 30)), "PNG")
    assert decode(data, DecodeLimits(max_pixels=600)).shape == (20, 30, 3)
    with pytest.raises(ImageError, match="600 pixels; the limit"):
        decode(data, DecodeLimits(max_pixels=599))
    assert decode(data, DecodeLimits(max_bytes=len(data))).shape == (20, 30, 3)
    with pytest.raises(ImageError, match=r"bytes; the limit \(max_bytes\)"):
        decode(data, DecodeLimits(max_bytes=len(data) - 1))
    with pytest.raises(UsageError, match="at least 1"):
        DecodeLimits(max_pixels=0)


def test_bad_files_say_what_is_wrong(tmp_path):
    limits = DecodeLimits(max_bytes=1000)
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match="directory"):
        decode(tmp_path)
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match="empty"):
        decode(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("hello, this is text")
    with pytest.raises(ImageError, match=r"^this is not an image: expected JPEG, .* or PNM$"):
        decode(tmp_path / "text.jpg")
    (tmp_path / "large.jpg").write_bytes(bytes(1001))
    with pytest.raises(ImageError, match="1001 bytes"):
        decode(tmp_path / "large.jpg", limits)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="pipe"):
        decode(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not valid"):
        decode(Path("a\0b"))


def test_permission_denied(tmp_path, monkeypatch):
    def denied(*arguments):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "image.jpg").touch()
    monkeypatch.setattr(os, "open", denied)  # root may read everything
    with pytest.raises(ImageError, match="permission denied"):
        decode(tmp_path / "image.jpg")


def test_size_from_a_prefix_and_of_the_unknown():
    data = pillow(Image.fromarray(host_frame(480, 640)), "JPEG", quality=95)
    assert read_size(data[:1024]) == (480, 640)
    assert read_size(b"") is None
    assert read_size(b"not an image") is None
    for kind in ("PNG", "WEBP", "BMP", "TIFF", "JPEG"):
        data = pillow(Image.fromarray(host_frame(48, 64)), kind)
        for cut in range(0, 40):
            assert read_size(data[:cut]) in (None, (48, 64))


@given(st.data())
def test_remembered_headers_are_the_headers(data):
    """HostFrames that begin alike are told apart by the first byte that counts."""
    picture_ = host_frame(33, 47)
    whole = cv2.imencode(".jpg", picture_)[1].tobytes()
    tag = Image.Exif()
    tag[0x0112] = 6
    exif = pillow(Image.fromarray(picture_), "JPEG", exif=tag)
    for original in (whole, exif):
        at = data.draw(st.integers(0, 700))
        changed = bytearray(original)
        changed[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, 900))
        for variant in (original, bytes(changed), original[:cut], bytes(changed[:cut]), original):
            found = read_header(variant)
            header_module._seen.clear()
            assert found == read_header(variant)
            read_header(original)


@pytest.mark.parametrize(
    ("factor", "sampling"),
    [
        (0x111111, (1, 1)),
        (0x211111, (2, 1)),
        (0x221111, (2, 2)),
        (0x121111, (1, 2)),
        (0x411111, (4, 1)),
    ],
)
def test_header_tells_the_sampling(factor: int, sampling: tuple[int, int]) -> None:
    pixels = np.zeros((33, 47, 3), np.uint8)
    data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor])[1].tobytes()
    header = read_header(data)
    assert header is not None and header.baseline and header.sampling == sampling


def test_header_tells_jpegs_that_are_no_baseline_ycbcr() -> None:
    host_frame = Image.fromarray(np.zeros((33, 47, 3), np.uint8))
    found = []
    for options in ({"keep_rgb": True}, {"progressive": True}, {}):
        target = io.BytesIO()
        host_frame.save(target, "JPEG", **options)
        header = read_header(target.getvalue())
        assert header is not None
        found.append((header.baseline, header.sampling))
    assert found == [(True, None), (False, (2, 2)), (True, (2, 2))]


@pytest.mark.parametrize(("transform", "sampling"), [(0, None), (1, (2, 2)), (2, None)])
def test_header_tells_what_adobe_says_of_the_colours(
    transform: int, sampling: tuple[int, int] | None
) -> None:
    """The component ids are those of YCbCr: only the marker tells."""
    target = io.BytesIO()
    Image.fromarray(np.zeros((33, 47, 3), np.uint8)).save(target, "JPEG")
    data = target.getvalue()
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64" + bytes(4) + bytes([transform])
    header = read_header(data[:2] + adobe + data[2:])
    assert header is not None and header.sampling == sampling
