"""Videos with detections: every frame at its time, of its size, with its sound, or no file."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from picture_kit import frames, gray, noise, packets, write_talkie

from brimful.detections import Detections
from brimful.pictures import video_drawer
from brimful.pictures.palette import colour_of
from brimful.pictures.picture_sink import PictureOptions, PictureSink
from brimful.pictures.style import Style
from brimful.sources.frames import read_frames
from video_kit import turned, write_clip

BOX = [16, 16, 48, 48]
PLAIN = Style(labels=False, line_width=4)


def results(path: Path, stride: int = 1, key: str | None = None) -> list[Detections]:
    """Return a box in every frame, as the engine hands out results."""
    found = []
    for frame in read_frames(str(path), stride=stride):
        failed = isinstance(frame.payload, Exception)
        height, width = (0, 0) if failed else frame.payload.size
        found.append(
            Detections(
                image=key or path.name,
                index=len(found),
                frame=frame.number,
                pts_ms=frame.pts_ms,
                width=width,
                height=height,
                task="detect",
                names=("bolt",),
                boxes=np.array([BOX], np.float32),
                confidence=np.ones(1, np.float32),
                class_id=np.zeros(1, np.int32),
                original=str(path),
                error=str(frame.payload) if failed else None,
            )
        )
    return found


def draw_video(path: Path, folder: Path, stride: int = 1, **options) -> PictureSink:
    folder.mkdir(exist_ok=True)
    sink = PictureSink(
        PictureOptions(folder=folder, style=PLAIN, vid_stride=stride, **options), workers=2
    )
    sink.write(results(path, stride))
    sink.finish()
    return sink


def check_box(picture: np.ndarray) -> None:
    """The line of the box, 4 pixels wide, has its colour, as far as chroma of half the size can."""
    line = picture[15:17, 20:44].reshape(-1, 3).mean(0)
    assert np.abs(line - colour_of(0)).max() < 30


def test_frames_times_and_sound_stay(tmp_path):
    clip = write_talkie(tmp_path / "a.mp4")
    sink = draw_video(clip, tmp_path / "out")
    written = tmp_path / "out/a.mp4"
    assert (sink.videos, sink.frames, sink.lost) == (1, 20, 0)
    before, after = frames(clip), frames(written)
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=1e-4)
    for (_, one), (_, other) in zip(before, after, strict=True):
        assert one.shape == other.shape
        check_box(other)
        outside = other[56:, 56:].astype(int) - one[56:, 56:]
        assert np.abs(outside).mean() < 3
    sound = packets(clip, "audio")
    assert len(sound) > 90
    assert packets(written, "audio") == sound  # bit by bit, at the same times
    video = cv2.VideoCapture(str(written))  # another reader
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 20
    assert video.get(cv2.CAP_PROP_FPS) == pytest.approx(10)
    with av.open(str(written)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == (
            *("h264", "yuv420p"),
            *(96, 64),
        )


def test_a_varying_rate_stays(tmp_path):
    times = [0, 40, 80, 500, 520, 1700, 1710, 3000]
    clip = write_clip(tmp_path / "a.mkv", [gray(64, 96)] * 8, times=times)
    draw_video(clip, tmp_path / "out")
    written = frames(tmp_path / "out/a.mkv.mp4")
    assert [round(1000 * time) for time, _ in written] == times


def test_strided_frames_keep_their_times(tmp_path):
    clip = write_talkie(tmp_path / "a.mp4")
    sink = draw_video(clip, tmp_path / "out", stride=3)
    written = frames(tmp_path / "out/a.mp4")
    assert sink.frames == len(written) == 7
    expected = frames(clip)[::3]
    assert [t for t, _ in written] == pytest.approx([t for t, _ in expected], abs=1e-4)
    for (_, one), (_, other) in zip(expected, written, strict=True):
        assert abs(int(one[60, 60, 0]) - int(other[60, 60, 0])) < 6  # that very frame
    assert packets(tmp_path / "out/a.mp4", "audio") == packets(clip, "audio")


def test_a_late_start_is_moved_to_zero_for_pictures_and_sound(tmp_path):
    clip = write_talkie(tmp_path / "a.ts", start=5)
    draw_video(clip, tmp_path / "out")
    written = tmp_path / "out/a.ts.mp4"
    shift = packets(clip, "audio")[0][1] - packets(written, "audio")[0][1]
    assert shift > 4
    assert frames(clip)[0][0] - frames(written)[0][0] == pytest.approx(shift, abs=2e-3)
    assert len(packets(written, "audio")) == len(packets(clip, "audio"))


def test_sound_that_no_mp4_holds_is_left_out_and_said(tmp_path, caplog):
    clip = write_talkie(tmp_path / "a.avi", codec="pcm_s16le")
    draw_video(clip, tmp_path / "out")
    written = tmp_path / "out/a.avi.mp4"
    assert len(frames(written)) == 20 and not packets(written, "audio")
    assert "pcm_s16le sound does not fit an MP4" in caplog.text


@pytest.mark.parametrize("stride", [1, 2])
def test_a_stream_without_times_has_those_of_its_rate(tmp_path, stride):
    clip = write_clip(tmp_path / "a.mp4", [gray(64, 96)] * 9)
    folder = tmp_path / "out"
    folder.mkdir()
    sink = PictureSink(PictureOptions(folder=folder, vid_stride=stride))
    for d in results(clip, stride):
        object.__setattr__(d, "pts_ms", None)
        sink.write([d])
    sink.finish()
    times = [time for time, _ in frames(folder / "a.mp4")]
    assert times == pytest.approx([i / 25 for i in range(0, 9, stride)], abs=1e-3)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_turned_video_is_written_upright(tmp_path, degrees):
    upright = noise(8, 12)
    image = cv2.resize(upright, (96, 64), interpolation=cv2.INTER_NEAREST)
    clip = turned(write_clip(tmp_path / "b.mp4", [image] * 5), degrees, tmp_path / "a.mp4")
    draw_video(clip, tmp_path / "out")
    reader = cv2.VideoCapture(str(clip))
    seen = reader.read()[1]
    assert seen.shape[:2] == ((64, 96) if degrees == 180 else (96, 64))
    with av.open(str(tmp_path / "out/a.mp4")) as container:
        frame = next(container.decode(video=0))
        assert getattr(frame, "rotation", 0) == 0
        written = frame.to_ndarray(format="bgr24")
    assert written.shape == seen.shape
    check_box(written)
    assert np.abs(written[56:, 56:].astype(int) - seen[56:, 56:]).mean() < 6


@pytest.mark.parametrize("size", [(63, 96), (64, 95), (63, 95)])
def test_odd_sides_get_a_pixel_more(tmp_path, size):
    clip = write_clip(tmp_path / "a.mkv", [gray(*size)] * 3, codec="ffv1", pix_fmt="bgr0")
    draw_video(clip, tmp_path / "out")
    written = frames(tmp_path / "out/a.mkv.mp4")[0][1]
    assert written.shape[:2] == (64, 96)
    assert np.abs(written[56:, 56:].astype(int) - 90).max() < 8


@pytest.mark.parametrize("matrix", [1, 2, 5, 6])
def test_colours_come_back(tmp_path, matrix):
    """The planes of a frame without a box are the same, whatever matrix they are of."""
    source = cv2.resize(noise(4, 6), (192, 128), interpolation=cv2.INTER_LINEAR)
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 192, 128, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 1
        kind = "ITU709" if matrix == 1 else "ITU601"
        frame = av.VideoFrame.from_ndarray(source, format="bgr24").reformat(
            format="yuv420p", dst_colorspace=kind, dst_color_range=1
        )
        frame.colorspace, frame.color_range = matrix, 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    draw_video(tmp_path / "a.mkv", tmp_path / "out")
    planes = []
    for path in (tmp_path / "a.mkv", tmp_path / "out/a.mkv.mp4"):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            assert frame.colorspace == matrix
            planes.append(frame.to_ndarray()[60:128].astype(int))
    assert np.abs(planes[0] - planes[1]).mean() < 2.5


def test_a_damaged_video_has_the_frames_before_the_damage(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", list(noise_frames(30)))
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) * 2 // 3])
    found = results(clip)
    good = [d for d in found if d.error is None]
    assert 0 < len(good) < 30 and found[-1].error
    sink = draw_video(clip, tmp_path / "out")
    assert (sink.frames, sink.videos, sink.failed, sink.lost) == (len(good), 1, 1, 0)
    assert len(frames(tmp_path / "out/a.mp4")) == len(good)


def noise_frames(count: int):
    for number in range(count):
        yield noise(64, 96, number)


def test_a_video_that_changed_has_no_picture(tmp_path, caplog):
    clip = write_clip(tmp_path / "a.mp4", list(noise_frames(10)))
    found = results(clip)
    write_clip(clip, list(noise_frames(4)))
    folder = tmp_path / "out"
    folder.mkdir()
    sink = PictureSink(PictureOptions(folder=folder))
    sink.write(found)
    sink.finish()
    assert (sink.videos, sink.lost) == (0, 1)
    assert "no frame 4 any more" in caplog.text
    assert list(folder.iterdir()) == []


def test_an_abandoned_video_leaves_nothing(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", [gray(64, 96)] * 40)
    found = results(clip)
    folder = tmp_path / "out"
    folder.mkdir()
    sink = PictureSink(PictureOptions(folder=folder))
    sink.write(found[:30])
    assert any("brimful-" in path.name for path in _wait_for(folder))
    sink.abandon()
    assert list(folder.iterdir()) == []


def _wait_for(folder: Path) -> list[Path]:
    import time

    end = time.monotonic() + 60
    while not (listed := list(folder.iterdir())) and time.monotonic() < end:
        time.sleep(0.01)
    return listed


def test_a_full_disk_ends_the_job_and_leaves_nothing(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "a.mp4", [gray(64, 96)] * 10)
    folder = tmp_path / "out"

    class Full(video_drawer.VideoFile):
        def write(self, *arguments):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(video_drawer, "VideoFile", Full)
    from brimful.errors import BrimfulError

    with pytest.raises(BrimfulError, match="No space left"):
        draw_video(clip, folder)
    assert list(folder.iterdir()) == []


def test_two_videos_and_crops(tmp_path):
    one = write_clip(tmp_path / "a.mp4", [gray(64, 96)] * 3)
    two = write_clip(tmp_path / "b.mp4", [gray(64, 96, 200)] * 2)
    folder = tmp_path / "out"
    folder.mkdir()
    sink = PictureSink(PictureOptions(folder=folder, crops=True, style=PLAIN))
    sink.write(results(one) + results(two))
    sink.finish()
    assert (sink.videos, sink.frames, sink.crops) == (2, 5, 5)
    crops = sorted(str(p.relative_to(folder)) for p in folder.glob("crops/**/*.jpg"))
    assert crops == [
        *(f"crops/bolt/a.mp4/{n:06}-0.jpg" for n in range(3)),
        *(f"crops/bolt/b.mp4/{n:06}-0.jpg" for n in range(2)),
    ]
    crop = cv2.imread(str(folder / crops[-1]))
    assert crop.shape == (32, 32, 3)
    assert np.abs(crop.astype(int) - 200).max() < 6  # nothing is drawn on it


def test_pixels_that_are_not_square_stay_so(tmp_path):
    from fractions import Fraction

    def write(path: Path) -> Path:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(gray(64, 96), "bgr24")))
            container.mux(stream.encode())
        return path

    clip = write(tmp_path / "a.mp4")
    draw_video(clip, tmp_path / "one")
    draw_video(turned(clip, 90, tmp_path / "b.mp4"), tmp_path / "two")
    for path, aspect in (("one/a.mp4", Fraction(4, 3)), ("two/b.mp4", Fraction(3, 4))):
        with av.open(str(tmp_path / path)) as container:
            assert container.streams.video[0].sample_aspect_ratio == aspect
