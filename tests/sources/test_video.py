"""Video sources against PyAV's own frames and OpenCV's VideoCapture."""

from __future__ import annotations

import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from brimful.errors import ImageError, MissingExtraError
from brimful.sources import open_source
from shared_files import shared

MATRICES = {
    90: (0, 65536, 0, -65536, 0, 0, 240 << 16, 0, 1 << 30),
    180: (-65536, 0, 0, 0, -65536, 0, 320 << 16, 240 << 16, 1 << 30),
    270: (0, -65536, 0, 65536, 0, 0, 0, 320 << 16, 1 << 30),
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """60 frames of noise, 320x240, H.264, the index in front."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for _ in range(60):
            pixels = rng.integers(0, 256, (240, 320, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
        container.mux(stream.encode())
    return path


def captured(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        ok, frame = capture.read()
        if not ok:
            capture.release()
            return frames
        frames.append(frame)


def test_frames_equal_videocapture(clip):
    source = open_source(clip)
    images = list(iter(source))
    assert len(source) == len(images) == 60
    for number, (image, expected) in enumerate(zip(images, captured(clip), strict=True)):
        assert (image.index, image.key, image.frame) == (number, "clip.mp4", number)
        assert image.payload.pixels().flags.c_contiguous
        np.testing.assert_array_equal(image.payload.pixels(), expected)


@pytest.mark.parametrize("degrees", MATRICES)
def test_rotation_of_the_container_is_applied(clip, tmp_path, degrees):
    data = bytearray(clip.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", *MATRICES[degrees])
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    images = list(iter(open_source(path)))
    assert images[0].payload.pixels().shape == ((240, 320, 3) if degrees == 180 else (320, 240, 3))
    for image, expected in zip(images, captured(path), strict=True):
        np.testing.assert_array_equal(image.payload.pixels(), expected)


@pytest.mark.parametrize("stride", [1, 2, 7, 60, 100])
def test_stride_keeps_frame_numbers_and_times(clip, stride):
    source = open_source(clip, vid_stride=stride)
    images = list(iter(source))
    assert [image.frame for image in images] == list(range(0, 60, stride))
    assert [image.index for image in images] == list(range(len(images)))
    assert [image.pts_ms for image in images] == pytest.approx(
        [f * 40 for f in range(0, 60, stride)]
    )
    assert len(source) == len(images)


def test_done_frames_are_left_out(clip):
    done = {("clip.mp4", frame) for frame in range(0, 60, 2) if frame < 40}
    images = list(iter(open_source(clip, vid_stride=2, done=done)))
    assert [image.frame for image in images] == list(range(40, 60, 2))
    assert [image.index for image in images] == list(range(20, 30))
    np.testing.assert_array_equal(images[0].payload.pixels(), captured(clip)[40])


@pytest.mark.parametrize("fault", ["truncated", "garbage"])
def test_corrupt_video_yields_frames_until_the_fault_then_an_error(clip, tmp_path, fault):
    data = bytearray(clip.read_bytes())
    half = len(data) // 2
    if fault == "truncated":
        del data[half:]
    else:
        data[half:] = bytes(len(data) - half)
    path = tmp_path / "bad.mp4"
    path.write_bytes(data)
    images = list(iter(open_source(path)))
    *good, last = images
    expected = captured(path)
    assert 10 < len(good) < 60
    assert abs(len(good) - len(expected)) <= 1
    np.testing.assert_array_equal(good[5].payload.pixels(), expected[5])
    assert isinstance(last.payload, ImageError)
    assert f"after {len(good)} frames" in str(last.payload)
    assert last.frame == len(good)
    assert [image.index for image in images] == list(range(len(images)))
    done = {(image.key, image.frame) for image in images}
    assert list(iter(open_source(path, done=done))) == []


def test_folder_with_a_broken_video_goes_on(clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"this is no video")
    (tmp_path / "b.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "c.jpg").touch()
    source = open_source(tmp_path)
    images = list(iter(source))
    assert "cannot be opened" in str(images[0].payload)
    assert (images[0].key, images[0].frame) == ("a.mp4", None)
    assert [image.frame for image in images[1:-1]] == list(range(60))
    assert [image.index for image in images] == list(range(62))
    assert images[-1].key == "c.jpg"
    with pytest.raises(TypeError, match="frames"):
        len(source)
    left = list(iter(open_source(tmp_path, done={("a.mp4", None)})))
    assert [image.index for image in left] == list(range(1, 62))


def test_without_pyav(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("brimful.extras.installed", lambda module: module != "av")
    with pytest.raises(MissingExtraError, match=r"brimful\[video\]"):
        open_source(clip)
    (tmp_path / "a.mp4").touch()
    (image,) = open_source(tmp_path)
    assert "brimful[video]" in str(image.payload)


@pytest.mark.parametrize("name", ["car-detection.mp4", "bottle-detection.mp4"])
def test_real_clips(name):
    path = shared("videos", name)
    expected = []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            expected.append(frame.time * 1000)
    capture = cv2.VideoCapture(str(path))
    times = []
    for image in open_source(path):
        times.append(image.pts_ms)
        if image.frame < 20:
            np.testing.assert_array_equal(image.payload.pixels(), capture.read()[1])
    assert times == pytest.approx(expected)
