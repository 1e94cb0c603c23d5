"""plot, save and show of detections, from originals of every kind."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from picture_kit import found, gray, noise

from brimful.errors import ImageError, UsageError
from brimful.load import load
from brimful.pictures.draw import draw
from brimful.pictures.style import Style
from video_kit import write_clip


@pytest.fixture
def engine():
    with load(None, runtime="debug", imgsz=64) as engine:
        yield engine


def test_files_are_read_again(tmp_path, engine):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), noise(40, 60, i))
    for i, d in enumerate(engine.predict(tmp_path)):
        assert d.original == str(tmp_path / f"{i}.png")
        assert np.array_equal(d.plot(), draw(noise(40, 60, i), d))
        assert d.save(tmp_path / f"out{i}.bmp") == tmp_path / f"out{i}.bmp"
        assert np.array_equal(cv2.imread(str(tmp_path / f"out{i}.bmp")), d.plot())


def test_images_in_memory_are_kept_when_asked(engine):
    from PIL import Image

    pixels = noise(40, 60)
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    pillow = Image.fromarray(pixels[:, :, ::-1])
    for image in (pixels, encoded, pillow):
        (d,) = engine.predict([image], keep_images=True)
        assert np.array_equal(d.plot(), draw(pixels, d))
        (d,) = engine.predict([image])
        assert d.original is None and d._repr_png_() is None
        with pytest.raises(UsageError, match="keep_images"):
            d.plot()
        assert np.array_equal(d.plot(image), draw(pixels, d))
    assert np.array_equal(pixels, noise(40, 60))  # nobody drew on the caller's


def test_frames_of_videos(tmp_path, engine):
    clip = write_clip(tmp_path / "a.mp4", [gray(64, 96, 40 * i) for i in range(5)])
    kept = list(engine.predict(clip, keep_images=True))
    for d, other in zip(engine.predict(clip), kept, strict=True):
        assert d.original == str(clip)
        assert np.array_equal(d.plot(), other.plot())
        assert abs(int(d.plot(boxes=False)[5, 5, 0]) - 40 * d.frame) < 6
    with pytest.raises(ImageError, match="no frame 4"):
        write_clip(clip, [gray(64, 96)] * 2)
        d.plot()


def test_options_are_those_of_the_style():
    d = found(200, 300, [[100, 80, 200, 160]])
    image = gray()
    for options in ({"labels": False}, {"conf": False}, {"boxes": False}, {"line_width": 7}):
        assert np.array_equal(d.plot(image, **options), draw(image, d, Style(**options)))


def test_a_notebook_gets_a_png(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), noise(40, 60))
    d = found(40, 60, [[5, 5, 30, 30]], original=str(tmp_path / "a.png"))
    png = d._repr_png_()
    assert np.array_equal(cv2.imdecode(np.frombuffer(png, np.uint8), 1), d.plot())
    (tmp_path / "a.png").unlink()
    assert d._repr_png_() is None  # its text is shown
    assert found(40, 60, [], error="torn", original="a.png")._repr_png_() is None


def test_show_hands_the_picture_to_a_viewer(monkeypatch):
    from PIL import Image

    shown = []
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append(self))
    d = found(200, 300, [[100, 80, 200, 160]])
    d.show(gray())
    assert np.array_equal(np.asarray(shown[0])[:, :, ::-1], d.plot(gray()))


def test_the_original_is_no_part_of_the_result():
    one, other = (found(40, 60, [[5, 5, 30, 30]], original=path) for path in ("a", "b"))
    assert one == other
    assert one.to_json_record() == other.to_json_record()
    assert pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize("name", ["a.heic", "a.mp4", "a"])
def test_a_suffix_that_is_not_written(tmp_path, name):
    with pytest.raises(UsageError, match="pictures are written as"):
        found(200, 300, []).save(tmp_path / name, gray())
    assert list(tmp_path.iterdir()) == []
