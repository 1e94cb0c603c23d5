"""Formats beside the common ones, told by content, and what is none of them."""

from __future__ import annotations

import io
import struct
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, features

from brimful.errors import ImageError
from brimful.vision.decode import DecodeLimits, decode
from brimful.vision.header import read_header


def host_frame(channels: int = 3) -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (6, 8, channels), np.uint8)
    return cv2.resize(coarse, (56, 40)).reshape(40, 56, channels)


def pillow(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(host_frame()).save(buffer, kind, **options)
    return buffer.getvalue()


def opencv(suffix: str, image: np.ndarray | None = None) -> bytes:
    return cv2.imencode(suffix, host_frame() if image is None else image)[1].tobytes()


def encoded() -> dict[str, bytes]:
    jp2 = pillow("JPEG2000")
    found = {
        "GIF87a": pillow("GIF"),
        "JP2": jp2,
        "J2K": jp2[jp2.index(b"\xff\x4f\xff\x51") :],
        "PPM": pillow("PPM"),
        "PPM with comments": pillow("PPM").replace(b"P6\n", b"P6 # a comment 7 7\n#more\n", 1),
        "PGM": opencv(".pgm", host_frame(1)),
        "PBM": opencv(".pbm", host_frame(1)),
        "plain PGM": b"P2\n3 2\n255\n1 2 3\n4 5 6\n",
        "PAM": opencv(".pam"),
        "PFM": opencv(".pfm", host_frame().astype(np.float32)),
    }
    if features.check("avif"):
        found["AVIF"] = pillow("AVIF")
    return found


@pytest.mark.parametrize("kind", encoded())
def test_rare_formats_equal_imread_whatever_their_name(tmp_path, kind):
    data = encoded()[kind]
    path = tmp_path / "image.jpg"
    path.write_bytes(data)
    expected = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if expected is None:
        pytest.skip("this OpenCV does not read it")
    np.testing.assert_array_equal(decode(path), expected)
    header = read_header(data)
    assert header is not None and header.stored == expected.shape[:2]
    height, width = expected.shape[:2]
    limits = DecodeLimits(max_pixels=height * width - 1)
    with pytest.raises(ImageError, match=f"says it is {width}x{height}"):
        decode(path, limits)


@pytest.mark.parametrize("kind", encoded())
def test_every_truncated_header_is_an_error(kind):
    data = encoded()[kind]
    for cut in range(1, 40):
        if cut < len(data):
            with pytest.raises(ImageError):
                decode(data[:cut])


def test_bombs_are_refused_before_decoding(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: pytest.fail("it was decoded"))
    sides = struct.pack(">II", 60000, 60000)
    jp2 = encoded()["JP2"]
    at = jp2.index(b"\xff\x4f\xff\x51") + 8
    bombs = {
        "GIF": b"GIF89a" + struct.pack("<HH", 60000, 60000) + bytes(9),
        "PNM": b"P6 60000 60000 255\n" + bytes(100),
        "JPEG 2000": jp2[:at] + sides + jp2[at + 8 :],
    }
    if "AVIF" in encoded():
        avif = encoded()["AVIF"]
        at = avif.index(b"ispe") + 8
        bombs["AVIF"] = avif[:at] + sides + avif[at + 8 :]
    for kind, data in bombs.items():
        with pytest.raises(ImageError, match=f"the {kind} says it is 60000x60000"):
            decode(data)


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def heic_header() -> bytes:
    def box(kind: bytes, *content: bytes) -> bytes:
        body = b"".join(content)
        return struct.pack(">I", len(body) + 8) + kind + body

    size = box(b"ispe", bytes(4), struct.pack(">II", 56, 40))
    meta = box(b"meta", bytes(4), box(b"iprp", box(b"ipco", size)))
    return HEIC + meta


def test_heic_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr("brimful.extras.installed", lambda module: False)
    assert read_header(heic_header()).stored == (40, 56)
    with pytest.raises(ImageError, match=r"pip install 'brimful\[heif\]'"):
        decode(heic_header())


def test_heic():
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    image = heif.from_pillow(Image.fromarray(host_frame()))
    image.save(buffer, quality=-1, chroma=444)
    data = buffer.getvalue()
    expected = np.asarray(heif.open_heif(io.BytesIO(data))[0].to_pillow().convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected[:, :, ::-1])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"%PDF-1.7 secret", "a PDF document"),
        (b"PK\x03\x04secret", "a ZIP archive"),
        (b"<!DOCTYPE html><p>secret", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\nsecret", "git lfs pull"),
        (b"\0\0\0\x18ftypisomsecret", "a video"),
        (b"root:x:0:0:secret", None),
        (b"secret", None),
        (b"P2secret", None),
        (b"BSecret", None),
    ],
)
def test_what_is_no_image_is_named_and_not_shown(data, what):
    """A list may name any file, and its reader may be another one than its owner."""
    with pytest.raises(ImageError, match="this is not an image: expected JPEG") as caught:
        decode(data)
    assert what is None or what in str(caught.value)
    assert "ecret" not in str(caught.value) and "root" not in str(caught.value)
