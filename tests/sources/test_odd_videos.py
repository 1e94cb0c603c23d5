"""Videos without a suffix, under rare ones, of odd kinds, and cut."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from brimful.errors import ImageError
from brimful.sources import open_source
from brimful.sources.announced import announced_bytes
from brimful.vision.decode import decode
from brimful.vision.host_frame import HostFrame

av = pytest.importorskip("av")

FRAMES = 12


def write(path: Path, codec: str, pixels: str, size: tuple[int, int] = (48, 64), **options) -> Path:
    """Write frames of coarse noise."""
    rng = np.random.default_rng(1)
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        for _ in range(FRAMES):
            coarse = rng.integers(0, 256, (size[0] // 5 + 1, size[1] // 5 + 1, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(cv2.resize(coarse, size[::-1]), format="rgb24")
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


# --- pixels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (48, 63), (47, 64)])
@pytest.mark.parametrize(
    "pixels",
    [
        *("yuv420p", "yuv422p", "yuv444p", "yuv411p", "yuv440p", "yuv410p", "gray", "bgr0"),
        *("yuv420p10le", "yuv422p10le", "yuv444p10le", "yuv420p12le", "gray10le", "yuva420p"),
    ],
)
def test_every_size_and_depth_equals_videocapture(tmp_path, pixels, size):
    path = write(tmp_path / "v.mkv", "ffv1", pixels, size)
    capture = cv2.VideoCapture(str(path))
    images = list(iter(open_source(path)))
    assert len(images) == FRAMES
    for image in images:
        ok, expected = capture.read()
        assert ok
        np.testing.assert_array_equal(image.payload.pixels(), expected)
    capture.release()


# --- names ----------------------------------------------------------------------------------

RARE = [
    ("h264", "libx264", "yuv420p"),
    ("vob", "mpeg2video", "yuv420p"),
    ("f4v", "libx264", "yuv420p"),
    ("y4m", "rawvideo", "yuv420p"),
    ("m2v", "mpeg2video", "yuv420p"),
]


@pytest.mark.parametrize(("suffix", "codec", "pixels"), RARE)
def test_rare_suffixes_are_videos_everywhere(tmp_path, suffix, codec, pixels):
    options = {"format": "mp4"} if suffix == "f4v" else {}
    if suffix == "y4m":
        options, codec = {"format": "yuv4mpegpipe"}, "wrapped_avframe"
    try:
        path = write(tmp_path / f"v.{suffix}", codec, pixels, **options)
    except (av.FFmpegError, ValueError):
        pytest.skip("this FFmpeg does not write it")
    for source in (path, tmp_path, [path], f"{tmp_path}/*"):
        images = list(iter(open_source(source)))
        assert [image.frame for image in images] == list(range(FRAMES))


@pytest.mark.parametrize("name", ["video", "video.bin", "video.mp4.part", ".mp4"])
def test_a_video_that_is_named_is_told_by_its_content(tmp_path, name):
    path = write(tmp_path / "v.mkv", "libx264", "yuv420p").rename(tmp_path / name)
    (tmp_path / "list.txt").write_text(name)
    for source in (path, [path], [path, np.zeros((2, 2), np.uint8)], tmp_path / "list.txt"):
        images = list(iter(open_source(source)))
        assert [image.frame for image in images][:FRAMES] == list(range(FRAMES))
    with pytest.raises(TypeError):
        len(open_source([path]))


def test_what_is_named_without_a_suffix_and_no_video(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "a.png").rename(tmp_path / "image")
    (tmp_path / "text").write_text("hello " * 1000)
    (tmp_path / "ansi.nfo").write_text("\x1b[31mhello\x1b[0m\n" * 100)
    (tmp_path / "list.m3u8").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nv.ts\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "concat").write_text("ffconcat version 1.0\nfile 'v.ts'\n")
    write(tmp_path / "v.ts", "libx264", "yuv420p")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.tga")
    (tmp_path / "empty").touch()
    names = ["image", "text", "ansi.nfo", "list.m3u8", "concat", "a.tga", "empty", "none"]
    images = list(iter(open_source([tmp_path / name for name in names])))
    assert [image.frame for image in images] == [None] * len(names)
    assert decode(images[0].payload).shape == (4, 4, 3)
    for image in images[1:]:
        with pytest.raises(ImageError):
            decode(image.payload)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    """Standard input may name `http://host/v.mp4`: no file, and nothing to fetch."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "v.mp4", "libx264", "yuv420p").rename("12:30.mp4")
    images = list(iter(open_source(["12:30.mp4"])))
    assert len(images) == FRAMES
    asked = []
    real = av.open
    monkeypatch.setattr(av, "open", lambda url, *a, **k: (asked.append(url), real(url, *a, **k))[1])
    images = list(iter(open_source(["http://127.0.0.1:9/v.mp4"])))
    assert asked == ["file:http://127.0.0.1:9/v.mp4"]
    assert isinstance(images[0].payload, ImageError)


# --- cut ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("v.mkv", "libx264", "yuv420p"), ("v.webm", "libvpx", "yuv420p"), ("v.avi", "ffv1", "bgr0")],
)
def test_a_cut_file_says_how_many_frames_there_should_be(tmp_path, name, codec, pixels, caplog):
    whole = write(tmp_path / name, codec, pixels)
    data = whole.read_bytes()
    assert announced_bytes(str(whole)) == len(data)
    images = list(iter(open_source(whole)))
    assert [type(image.payload) for image in images] == [HostFrame] * FRAMES
    assert not caplog.records
    for cut in (len(data) // 3, len(data) // 2, len(data) * 3 // 4):
        whole.write_bytes(data[:cut])
        *frames, last = iter(open_source(whole))
        assert len(frames) < FRAMES and isinstance(last.payload, ImageError)
        said = str(last.payload)
        assert f"damaged after {len(frames)} frames" in said
        assert "Invalid data" in said or (
            f"truncated, it has {len(frames)} of about {FRAMES} frames in {cut:,} bytes of" in said
        )


def test_a_cut_index_alone_is_a_warning(tmp_path, caplog):
    path = write(tmp_path / "v.avi", "ffv1", "bgr0")
    path.write_bytes(path.read_bytes()[:-20])
    images = list(iter(open_source(path)))
    assert [type(image.payload) for image in images] == [HostFrame] * FRAMES
    assert f"v.avi is truncated: {FRAMES} of about {FRAMES} frames" in caplog.text


def test_a_length_that_is_only_estimated_is_a_warning(tmp_path, caplog):
    path = write(tmp_path / "v.flv", "flv1", "yuv420p")
    with caplog.at_level(logging.WARNING, "brimful"):
        assert len(list(iter(open_source(path)))) == FRAMES
        assert not caplog.records
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        count = len(list(iter(open_source(path))))
    assert 0 < count < FRAMES
    assert f"v.flv ends early: {count} of about {FRAMES} frames" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1a\x45\xdf\xa3",
        b"\x1a\x45\xdf\xa3\x00" + bytes(20),
        b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01" + b"\xff" * 7 + bytes(9),
        b"\x1a\x45\xdf\xa3\x80" * 5000,
        b"RIFF\0\0\0\0AVI " + bytes(99),
        b"RIFF\xff\xff\xff\xffAVI ",
    ],
)
def test_containers_that_do_not_say_their_size(tmp_path, data):
    (tmp_path / "v").write_bytes(data)
    assert announced_bytes(str(tmp_path / "v")) is None


def test_containers_that_say_their_size(tmp_path):
    file = tmp_path / "v"
    file.write_bytes(b"\x1a\x45\xdf\xa3\x82ab\x18\x53\x80\x67\x40\x64xyz")
    assert announced_bytes(str(file)) == 7 + 6 + 100
    file.write_bytes(b"RIFF\x0a\0\0\0AVI 123456RIFF\x64\0\0\0AVIX")
    assert announced_bytes(str(file)) == 18 + 8 + 100
    assert announced_bytes(str(tmp_path / "none")) is None
