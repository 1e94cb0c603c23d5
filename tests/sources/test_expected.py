"""How many images are to come, before any is read."""

import pytest

from brimful.errors import UsageError
from brimful.sources import expected
from brimful.sources.expected import expected_images


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked into")
    return folder


def test_images_are_counted(tmp_path):
    files(tmp_path, "a.jpg", "b.png", "deep/c.jpg", "notes.md")
    assert expected_images(str(tmp_path)) == 3
    assert expected_images(str(tmp_path / "a.jpg")) == 1
    assert expected_images(str(tmp_path / "*.jpg")) == 1
    (tmp_path / "list.txt").write_text("a.jpg\nb.png\n")
    assert expected_images(str(tmp_path / "list.txt")) == 2


def test_frames_of_videos_are_not(tmp_path):
    assert expected_images(str(files(tmp_path, "a.jpg", "b.mp4"))) is None


def test_standard_input_is_not_read():
    assert expected_images("-") is None


def test_counting_stops_when_there_are_many(tmp_path, monkeypatch):
    monkeypatch.setattr(expected, "ENOUGH", 2)
    files(tmp_path, *(f"{folder}/{i}.jpg" for folder in "abc" for i in range(2)))
    assert 2 <= expected_images(str(tmp_path)) < 6


def test_no_source(tmp_path):
    with pytest.raises(UsageError, match="there is no source"):
        expected_images(str(tmp_path / "missing"))
