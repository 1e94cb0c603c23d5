"""Frames that wait to be converted, against what OpenCV's own reader makes of the same file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from brimful.cluster.packing import convert
from brimful.engine.payload import bytes_held
from brimful.engine.preprocess import HostPreprocess
from brimful.errors import ImageError
from brimful.sources.image import SourceImage
from brimful.spec import ModelSpec
from brimful.vision.canvas import CanvasPolicy
from brimful.vision.decode import DecodeLimits
from brimful.vision.host_frame import HostFrame

av = pytest.importorskip("av")

SIZES = [(96, 64), (64, 96), (128, 80)]


def frame_of(size: tuple[int, int], level: int) -> object:
    """Return a frame in FFmpeg's planes: a ramp, so that rows and columns can be told apart."""
    height, width = size
    ramp = np.arange(height * width, dtype=np.uint32).reshape(height, width) * 7 % 200 + level
    bgr = np.repeat(ramp.astype(np.uint8)[:, :, None], 3, axis=2)
    return av.VideoFrame.from_ndarray(bgr, format="bgr24").reformat(format="yuv420p")


def converted(frame: object) -> np.ndarray:
    return frame.reformat(format="bgr24").to_ndarray()  # type: ignore[attr-defined]


def test_many_threads_convert_frames_of_several_sizes_at_a_time() -> None:
    frames = [frame_of(SIZES[i % 3], i % 50) for i in range(120)]
    host_frames = [HostFrame(frame, 0) for frame in frames]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(HostFrame.pixels, host_frames))
    for pixels, frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(pixels, converted(frame))
        assert pixels.flags.c_contiguous and pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("turns", "rotation"),
    [(1, cv2.ROTATE_90_COUNTERCLOCKWISE), (2, cv2.ROTATE_180), (3, cv2.ROTATE_90_CLOCKWISE)],
)
def test_turned_upright(turns: int, rotation: int) -> None:
    frame = frame_of((96, 64), 9)
    found = HostFrame(frame, turns).pixels()
    np.testing.assert_array_equal(found, cv2.rotate(converted(frame), rotation))
    assert found.flags.c_contiguous


def test_it_counts_the_bytes_that_it_holds() -> None:
    assert 96 * 64 * 3 // 2 <= HostFrame(frame_of((96, 64), 0), 0).nbytes <= 2 * 96 * 64 * 3 // 2


class Unconvertible:
    """A frame of a format that FFmpeg's scaler does not take."""

    planes: tuple[()] = ()

    class format:
        name = "exotic"


def test_what_cannot_be_converted_is_an_error_of_its_image(monkeypatch) -> None:
    class Refusing:
        def reformat(self, frame: object, **options: object) -> object:
            raise ValueError("no such conversion")

    monkeypatch.setattr(av.video.reformatter, "VideoReformatter", Refusing)
    with ThreadPoolExecutor(1) as pool:  # a thread without a converter yet
        future = pool.submit(HostFrame(Unconvertible(), 0).pixels)
        with pytest.raises(ImageError, match="exotic pixels cannot be converted: no such"):
            future.result()
        image = SourceImage(index=3, key="a.mp4", payload=HostFrame(Unconvertible(), 0))
        pool.submit(convert, image).result()
    assert isinstance(image.payload, ImageError) and "exotic" in str(image.payload)


def test_pictures_travel_as_pixels(tmp_path: Path) -> None:
    frame = frame_of((64, 96), 3)
    image = SourceImage(index=0, key="a.mp4", payload=HostFrame(frame, 0), frame=0)
    convert(image)
    np.testing.assert_array_equal(image.payload, converted(frame))
    convert(image)  # what is converted stays
    np.testing.assert_array_equal(image.payload, converted(frame))


@pytest.mark.parametrize("size", [(64, 98), (66, 2), (2, 34), (50, 1922)])
def test_widths_whose_rows_are_padded(size: tuple[int, int]) -> None:
    frame = frame_of(size, 5)
    found = HostFrame(frame, 0).pixels()
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, converted(frame))


def test_pixels_outlive_the_picture_and_the_next_conversion() -> None:
    frames = [frame_of((96, 64), level) for level in range(0, 50, 10)]
    found = [HostFrame(frame, 0).pixels() for frame in frames]
    for pixels, frame in zip(found, frames, strict=True):
        np.testing.assert_array_equal(pixels, converted(frame))


def test_its_bytes_count_against_the_window_of_a_job() -> None:
    host_frame = HostFrame(frame_of((96, 64), 0), 0)
    assert (
        bytes_held(SourceImage(index=0, key="a.mp4", payload=host_frame)) == host_frame.nbytes > 0
    )


def test_who_converts_says_so_first() -> None:
    """A worker gives its turn away then, as it does before it decodes a file."""
    frame, said = frame_of((96, 64), 7), []
    spec = ModelSpec(task="detect", head="raw", names=("a",))
    preprocess = HostPreprocess(spec, CanvasPolicy.for_model(spec), DecodeLimits())
    image = SourceImage(index=0, key="a.mp4", payload=HostFrame(frame, 0))
    found = preprocess.decode(image, None, lambda: said.append("on the host"))
    np.testing.assert_array_equal(found, converted(frame))
    assert said == ["on the host"]
