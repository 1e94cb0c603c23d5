"""URLs and cameras as sources, against real servers on loopback."""

from __future__ import annotations

import re
import time

import av
import cv2
import numpy as np
import pytest

import brimful
from brimful.errors import ImageError, UsageError
from brimful.formats.json_record import encode_jsonl
from brimful.sources import address_source, download, frames, open_source
from brimful.sources.address import Address, is_address, without_password
from brimful.sources.expected import expected_images
from servers import (
    LOGIN,
    cut,
    endless,
    http_server,
    motion_jpeg,
    protected,
    redirecting,
    rtsp_server,
    silent,
)
from video_kit import write_clip

LEVELS = [40, 90, 140, 190, 240]


def gray(level: int) -> np.ndarray:
    return np.full((64, 96, 3), level, np.uint8)


def jpeg(level: int) -> bytes:
    return cv2.imencode(".jpg", gray(level), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()


@pytest.fixture
def server():
    with http_server() as server:
        yield server


def only(url: str, **options):
    (image,) = open_source(url, **options)
    return image


def error_of(url: str, **options) -> str:
    payload = only(url, **options).payload
    assert isinstance(payload, ImageError)
    return str(payload)


def levels(images) -> list[int]:
    return [round(float(image.payload.pixels().mean())) for image in images]


# Images over HTTP ---------------------------------------------------------------------------------


def test_an_image_is_fetched_as_its_bytes(server):
    server.files["/a/x.jpg"] = ("image/jpeg", jpeg(90))
    server.files["/image?id=3"] = ("image/jpeg", jpeg(140))
    server.files["/moved"] = redirecting("/a/x.jpg")
    image = only(server.url("/a/x.jpg"))
    assert (image.key, image.index, image.frame) == ("x.jpg", 0, None)
    assert image.payload == jpeg(90) and image.kept is False
    image = only(server.url("/image?id=3"))
    assert image.key == "image" and image.payload == jpeg(140)
    assert only(server.url("/moved")).payload == jpeg(90)
    assert len(open_source(server.url("/a/x.jpg"))) == 1


def test_nothing_is_asked_before_it_is_read(server):
    source = open_source(server.url("/x.jpg"))
    assert expected_images(server.url("/x.jpg")) == 1
    assert expected_images(server.url("/clip.mp4?v=2")) is None
    assert expected_images("rtsp://127.0.0.1:9/x") is None
    source.close()
    assert server.asked == []
    done = {("x.jpg", None)}
    assert list(open_source(server.url("/x.jpg"), done=done)) == [] and server.asked == []


def test_a_password_goes_to_its_server_and_into_no_message(server):
    server.files["/x.jpg"] = protected("image/jpeg", jpeg(90))
    image = only(server.url("/x.jpg", LOGIN))
    assert image.payload == jpeg(90) and image.key == "x.jpg"
    said = error_of(server.url("/x.jpg", "me:wrong"))
    assert "the server answered 401" in said and "wrong" not in said
    with http_server() as other:  # where it redirects to, it is not sent
        other.files["/x.jpg"] = protected("image/jpeg", jpeg(90))
        server.files["/away.jpg"] = redirecting(other.url("/x.jpg"))
        assert "401" in error_of(server.url("/away.jpg", LOGIN))
    assert without_password("rtsp://a:b@cam/1?x=@") == "rtsp://cam/1?x=@"
    assert without_password("http://h/a@b") == "http://h/a@b"


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "the server answered 404"),
        (cut(jpeg(90)[:100], 5000), "broke off after 100 of 5,000 bytes"),
        (redirecting("file:///etc/hostname"), "302|unknown url|not allowed"),
        (redirecting("/x.jpg"), "infinite loop|redirect"),
    ],
)
def test_what_cannot_be_fetched_is_a_row_with_its_reason(server, answer, says):
    if answer is not None:
        server.files["/x.jpg"] = answer
    url = server.url("/x.jpg")
    with brimful.load(None, runtime="debug", imgsz=64) as engine:
        (result,) = engine.predict(url)
    assert result.failure == "image" and result.image == "x.jpg"
    assert url in result.error
    assert re.search(says, result.error), result.error


def test_what_is_too_large_is_not_read_to_its_end(server):
    server.files["/x.jpg"] = ("image/jpeg", jpeg(90))
    size = len(jpeg(90))
    assert only(server.url("/x.jpg"), max_bytes=size).payload == jpeg(90)
    assert f"has {size:,} bytes, more than max_bytes {size - 1:,}" in error_of(
        server.url("/x.jpg"), max_bytes=size - 1
    )
    server.files["/endless.jpg"] = endless(b"x" * 4096)
    assert "more bytes than max_bytes 100,000" in error_of(
        server.url("/endless.jpg"), max_bytes=100_000
    )


def test_no_server_is_waited_for_without_an_end(server, monkeypatch):
    monkeypatch.setattr(download, "SILENCE_S", 0.2)
    server.files["/silent.jpg"] = silent(b"\xff\xd8")
    assert "said nothing for 0 s" in error_of(server.url("/silent.jpg"))
    monkeypatch.setattr(download, "LONGEST_S", 0.0)
    server.files["/endless.jpg"] = endless(b"x")
    assert "did not end within" in error_of(server.url("/endless.jpg"))
    assert "refused" in error_of("http://127.0.0.1:9/x.jpg").lower()


def test_content_that_is_no_image_is_told(server):
    server.files["/x.jpg"] = ("text/html", b"<html>sign in</html>")
    with brimful.load(None, runtime="debug", imgsz=64) as engine:
        (result,) = engine.predict(server.url("/x.jpg"))
    assert "an HTML page" in result.error


def test_an_image_is_drawn_on_what_was_fetched_and_kept_only_then(server):
    server.files["/x.jpg"] = ("image/jpeg", jpeg(90))
    with brimful.load(None, runtime="debug", imgsz=64) as engine:
        (plain,) = engine.predict(server.url("/x.jpg"))
        (kept,) = engine.predict(server.url("/x.jpg"), keep_images=True)
        source = open_source(server.url("/x.jpg"), keeps_fetched=True)
        (drawn,) = engine.predict(source)
    assert plain.original is None and plain == kept == drawn
    assert kept.original == drawn.original == jpeg(90)
    np.testing.assert_array_equal(kept.plot(), drawn.plot())
    assert len(server.asked) == 3, "nothing was fetched twice"


def test_lists_do_not_make_anything_be_fetched(server, tmp_path):
    server.files["/x.jpg"] = ("image/jpeg", jpeg(90))
    (tmp_path / "list.txt").write_text(server.url("/x.jpg") + "\n")
    for spec in (tmp_path / "list.txt", [server.url("/x.jpg")]):
        (image,) = open_source(spec)
        assert isinstance(image.payload, str) and not isinstance(image, Address)
    assert server.asked == []


# Videos and streams -------------------------------------------------------------------------------


def test_a_video_over_http_has_the_frames_of_the_file(server, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", [gray(level) for level in LEVELS])
    server.files["/clip.mp4"] = ("video/mp4", clip.read_bytes())
    server.files["/watch?v=1"] = ("video/mp4", clip.read_bytes())  # the server says what it is
    expected = list(open_source(clip))
    for path, key in (("/clip.mp4", "clip.mp4"), ("/watch?v=1", "watch")):
        found = list(open_source(server.url(path)))
        assert [(i.index, i.key, i.frame, i.pts_ms) for i in found] == [
            (i.index, key, i.frame, i.pts_ms) for i in expected
        ]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.payload.pixels(), other.payload.pixels())
    assert levels(open_source(server.url("/clip.mp4"), vid_stride=2)) == levels(expected)[::2]
    with pytest.raises(TypeError):
        len(open_source(server.url("/clip.mp4")))


def test_motion_jpeg_of_a_camera(server):
    server.files["/video"] = motion_jpeg([jpeg(level) for level in LEVELS])
    *good, bad = open_source(server.url("/video"))
    assert levels(good) == LEVELS
    assert "the stream broke off after 5 frames" in str(bad.payload)  # it hung up


def test_a_video_that_is_not_there_or_breaks_off(server, tmp_path):
    assert "cannot be opened: Server returned 404" in error_of(server.url("/clip.mp4"))
    clip = write_clip(tmp_path / "clip.mp4", [gray(i) for i in range(0, 250, 2)])
    data = clip.read_bytes()
    server.files["/cut.mp4"] = ("video/mp4", data[: 2 * len(data) // 3])
    *good, bad = open_source(server.url("/cut.mp4"))
    assert 10 < len(good) < 125 and all(image.frame == n for n, image in enumerate(good))
    assert f"the stream broke off after {len(good)} frames" in str(bad.payload)


def test_rtsp_frame_by_frame():
    with rtsp_server([gray(level) for level in LEVELS]) as server:
        url = f"rtsp://me:pw@127.0.0.1:{server.server_address[1]}/cam/1"
        images = list(open_source(url))
    assert [image.key for image in images] == ["1"] * 5
    assert [image.frame for image in images] == list(range(5))
    assert levels(images)[1:] == pytest.approx(LEVELS[1:], abs=3)
    assert [method for method, _ in server.asked] == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]


def test_a_stream_that_says_nothing_more_ends_with_its_reason(monkeypatch):
    monkeypatch.setattr(frames, "SILENCE_S", 0.5)
    monkeypatch.setattr(frames, "OPENING_S", 1.0)
    with rtsp_server([gray(level) for level in LEVELS], hangs=True) as server:
        started = time.monotonic()
        *good, bad = open_source(f"rtsp://127.0.0.1:{server.server_address[1]}/cam")
        assert time.monotonic() - started < 60
    assert 3 <= len(good) <= 5
    assert f"broke off after {len(good)} frames: nothing came for 0 s" in str(bad.payload)
    assert "refused" in error_of("rtsp://127.0.0.1:9/cam")


def test_results_of_a_stream_come_while_it_runs(monkeypatch):
    monkeypatch.setattr(frames, "OPENING_S", 1.0)
    with (
        rtsp_server([gray(level) for level in LEVELS], hangs=True) as server,
        brimful.load(None, runtime="debug", imgsz=64) as engine,
    ):
        results = engine.predict(f"rtsp://127.0.0.1:{server.server_address[1]}/cam")
        firsts = [next(results) for _ in range(3)]  # the server is silent now, and has not ended
        assert [result.frame for result in firsts] == [0, 1, 2]
        results.close()


def test_a_video_of_the_network_is_not_drawn(server, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", [gray(level) for level in LEVELS])
    server.files["/clip.mp4"] = ("video/mp4", clip.read_bytes())
    with pytest.raises(UsageError, match=r"second reading.*ffmpeg -i"):
        open_source(server.url("/clip.mp4"), keeps_fetched=True)
    server.files["/watch"] = ("video/mp4", clip.read_bytes())
    assert "second reading" in error_of(server.url("/watch"), keeps_fetched=True)
    with brimful.load(None, runtime="debug", imgsz=64) as engine:
        rows = list(engine.predict(server.url("/clip.mp4")))
        kept = list(engine.predict(server.url("/clip.mp4"), keep_images=True))
        assert encode_jsonl(rows) == encode_jsonl(kept)
    assert {row.original for row in rows} == {None}
    assert kept[2].plot().shape == (64, 96, 3)


# Cameras ------------------------------------------------------------------------------------------


def test_a_camera_that_is_not_there(monkeypatch):
    monkeypatch.setattr(address_source, "cameras", lambda: ["/dev/video7"])
    with pytest.raises(UsageError, match=r"no camera /dev/video98, .*cameras here: /dev/video7"):
        open_source("98")


def test_a_camera_is_opened_as_one(monkeypatch, tmp_path):
    """There is no camera here: a video stands for what the driver sends."""
    clip = write_clip(tmp_path / "clip.mp4", [gray(level) for level in LEVELS])
    asked = []
    real = av.open

    def opened(url, **options):
        asked.append((url, options["format"], options["timeout"]))
        return real(str(clip))

    monkeypatch.setattr(av, "open", opened)
    monkeypatch.setattr(address_source.Path, "exists", lambda path: str(path) == "/dev/video98")
    images = list(open_source("98"))
    assert asked == [("/dev/video98", "video4linux2", (frames.OPENING_S, frames.SILENCE_S))]
    assert [image.key for image in images] == ["video98"] * 5
    assert images[0].video is None


def test_a_file_whose_name_is_a_number_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0").write_bytes(jpeg(90))
    assert only("0").payload == "0"


def test_what_is_an_address():
    yes = ("http://h/x", "HTTPS://h", "rtsp://c", "rtsps://c", "rtmp://c/a", "/dev/video0")
    assert all(map(is_address, yes))
    no = ("ftp://h/x", "file:///x", "http:/x", "/dev/video", "/dev/videos/0", "x/http://h", "0")
    assert not any(map(is_address, no))
    assert "tty" not in av.formats_available or not is_address("tty://x")
