"""Videos that a device decodes: what comes out is what the CPU gives, whatever goes wrong."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from brimful.errors import ImageError
from brimful.runtimes.video import VideoRefusedError
from brimful.sources import open_source
from brimful.sources.frames import read_frames
from brimful.sources.source import chunks_of
from brimful.vision.device_frame import DeviceFrame
from video_kit import HostVideo, moving, noise, turned, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """60 frames of noise, 320x240, H.264 with B-frames, the index in front."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return write_clip(path, noise(60, (240, 320)))


def images_of(source, device=None):
    return [image for chunk in chunks_of(source, device) for image in chunk]


def assert_same(found, expected):
    """Two lists of images are the same but for where their pixels are."""
    assert len(found) == len(expected)
    for image, other in zip(found, expected, strict=True):
        assert (image.index, image.key, image.frame) == (other.index, other.key, other.frame)
        assert image.pts_ms == other.pts_ms
        payload = image.payload
        if isinstance(other.payload, Exception):
            assert str(payload) == str(other.payload)
            continue
        expected_pixels = other.payload.pixels()
        if isinstance(payload, DeviceFrame):
            assert payload.size == expected_pixels.shape[:2]
            payload = payload.memory.pixels
        else:
            payload = payload.pixels()
        np.testing.assert_array_equal(payload, expected_pixels)


def device_frames(images):
    return [image.frame for image in images if isinstance(image.payload, DeviceFrame)]


def test_a_devices_frames_do_not_wait_for_each_other(clip):
    """It has room for few: who waits for its own room behind them would wait for ever."""
    lists = list(chunks_of(open_source(clip), HostVideo()))
    assert [len(images) for images in lists] == [1] * 60


@pytest.mark.parametrize("stride", [1, 3, 100])
def test_a_device_changes_nothing_but_where_the_pixels_are(clip, stride):
    done = {("clip.mp4", number) for number in range(0, 30, 2)}
    device = HostVideo()
    options = {"vid_stride": stride, "done": done}
    found = images_of(open_source(clip, **options), device)
    assert_same(found, images_of(open_source(clip, **options)))
    assert device_frames(found) == [n for n in range(0, 60, stride) if ("clip.mp4", n) not in done]
    assert not device.told
    assert device.closed_at_work == [True]


def test_without_a_device_there_are_no_surfaces(clip):
    assert not device_frames(images_of(open_source(clip)))
    assert not device_frames(list(open_source(clip)))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos(clip, tmp_path, degrees):
    path = turned(clip, degrees, tmp_path / "turned.mp4")
    found = images_of(open_source(path), HostVideo())
    assert found[0].payload.size == ((240, 320) if degrees == 180 else (320, 240))
    assert_same(found, images_of(open_source(path)))


def test_frames_at_times_of_their_own(tmp_path):
    times = [0, 10, 15, 400, 410, 1000, 1001, 5000]
    path = write_clip(tmp_path / "uneven.mp4", moving(8, (64, 96)), times=times)
    found = images_of(open_source(path), HostVideo())
    assert [image.pts_ms for image in found] == pytest.approx(times, abs=1)
    assert_same(found, images_of(open_source(path)))


def test_pictures_that_change_their_size(tmp_path):
    """Two elementary streams in one file: the second brings parameters of its own."""
    data = b""
    for i, size in enumerate(((64, 96), (96, 64))):
        part = write_clip(tmp_path / f"{i}.h264", moving(6, size), options={"bf": "0"})
        data += part.read_bytes()
    path = tmp_path / "both.ts"
    (tmp_path / "both.h264").write_bytes(data)
    with av.open(str(tmp_path / "both.h264")) as container, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(container.demux(video=0)):
            if packet.size:
                packet.pts = packet.dts = number * 40
                packet.stream = stream
                out.mux(packet)
    found = images_of(open_source(path), HostVideo())
    assert_same(found, images_of(open_source(path)))
    assert {image.payload.size for image in found} == {(64, 96), (96, 64)}


def test_a_codec_refused_goes_to_the_cpu_and_is_told(clip):
    device = HostVideo(refuse_stream="codec h264 is decoded on the CPU")
    found = images_of(open_source(clip), device)
    assert_same(found, images_of(open_source(clip)))
    assert device.told == [("clip.mp4", "codec h264 is decoded on the CPU")]
    assert not device.taken


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("at", [0, 1, 7])
def test_the_cpu_goes_on_where_the_device_gives_up(clip, stride, at):
    done = {("clip.mp4", 4), ("clip.mp4", 41)}
    device = HostVideo(refuse_frame=lambda asked: asked == at)
    options = {"vid_stride": stride, "done": done}
    found = images_of(open_source(clip, **options), device)
    assert_same(found, images_of(open_source(clip, **options)))
    assert len(device_frames(found)) == at == device.taken
    assert len(device.told) == 1
    assert device.closed_at_work == [True]


@pytest.mark.parametrize("fault", ["truncated", "garbage"])
def test_damaged_videos(clip, tmp_path, fault):
    data = bytearray(clip.read_bytes())
    half = len(data) // 2
    if fault == "truncated":
        del data[half:]
    else:
        data[half:] = bytes(len(data) - half)
    path = tmp_path / "bad.mp4"
    path.write_bytes(data)
    device = HostVideo()
    found = images_of(open_source(path), device)
    expected = images_of(open_source(path))
    assert isinstance(found[-1].payload, ImageError)
    assert_same(found, expected)
    assert len(device.told) == 1
    # FFmpeg's threads find the fault at another frame when there are others of them.
    assert device_frames(found) == list(range(len(device_frames(found))))
    assert len(device_frames(found)) > 5
    done = {(image.key, image.frame) for image in found}
    assert images_of(open_source(path, done=done), HostVideo()) == []


def test_an_error_of_the_cpu_never_repeats_a_frame_that_the_device_gave(clip, tmp_path):
    """The device came further than the CPU does: the fault follows its last frame."""
    whole = clip.read_bytes()
    path = tmp_path / "bad.mp4"
    path.write_bytes(whole)
    device = HostVideo(refuse_frame=lambda asked: asked == 50)
    frames = read_frames(str(path), device=device)
    numbers = [next(frames).number for _ in range(50)]
    path.write_bytes(whole[: len(whole) // 2])  # before the CPU opens it
    (last,) = frames
    assert numbers == list(range(50))
    assert last.number == 50
    assert "after 50 frames" in str(last.payload)


def test_a_file_that_is_no_video(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"this is no video")
    device = HostVideo()
    (image,) = images_of(open_source(path), device)
    assert "cannot be opened" in str(image.payload)
    assert image.frame is None


def test_a_device_that_opens_nothing(clip):
    device = HostVideo()

    def none(path: str) -> None:
        raise VideoRefusedError("this PyAV was built without CUDA")

    device.open = none
    assert_same(images_of(open_source(clip), device), images_of(open_source(clip)))
    assert device.told == [("clip.mp4", "this PyAV was built without CUDA")]


def test_what_is_no_refusal_is_raised(clip):
    device = HostVideo()

    def broken(frame, quarter_turns):
        raise ZeroDivisionError

    device.start = lambda stream: broken
    with pytest.raises(ZeroDivisionError):
        images_of(open_source(clip), device)


def test_a_folder_goes_on_after_each_video(clip, tmp_path):
    (tmp_path / "a.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "b.mp4").write_bytes(b"this is no video")
    (tmp_path / "c.jpg").touch()
    write_clip(tmp_path / "d.avi", moving(9, (48, 64)), codec="mpeg4")
    found = images_of(open_source(tmp_path), HostVideo())
    assert_same(
        [image for image in found if image.key != "c.jpg"],
        [image for image in images_of(open_source(tmp_path)) if image.key != "c.jpg"],
    )
    assert [image.index for image in found] == list(range(60 + 1 + 1 + 9))


def test_leaving_early_closes_the_device_s_frames(clip):
    device = HostVideo()
    frames = read_frames(str(clip), device=device)
    kept = next(frames)
    frames.close()
    assert device.closed_at_work == [True]
    assert device.alive == 1
    del kept
    assert device.alive == 0
