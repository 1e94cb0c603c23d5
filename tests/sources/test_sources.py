"""Sources: what is listed, in which order, under which key, and what happens to the bad ones."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from brimful.errors import ImageError, UsageError
from brimful.sources import open_source, walk
from brimful.vision.decode import decode


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def listed(source) -> list[str]:
    images = list(iter(source))  # list(source) would ask for the length first
    assert [image.index for image in images] == list(range(len(images)))
    return [image.key for image in images]


def test_one_file(tmp_path):
    make(tmp_path, "a/photo.JPG")
    source = open_source(tmp_path / "a/photo.JPG")
    (image,) = source
    assert (image.key, image.payload) == ("photo.JPG", str(tmp_path / "a/photo.JPG"))
    assert len(source) == 1


def test_folder_is_recursive_sorted_by_components_and_skips_the_rest(tmp_path):
    names = ["b.jpg", "a/z.png", "a.jpg", "a/b/c.webp", "a b/1.bmp", "é.tif", "a/B.JPEG"]
    make(tmp_path, *names, "note.txt", ".hidden.jpg", ".cache/x.jpg", "a/.DS_Store", "noext")
    source = open_source(tmp_path)
    assert str(source.skipped) == ""
    expected = sorted(names, key=lambda name: name.split("/"))
    assert listed(source) == expected
    assert listed(source) == expected  # a second iteration starts over
    assert len(source) == len(names)
    assert [image.payload for image in source] == [f"{tmp_path}/{name}" for name in expected]


def test_order_does_not_depend_on_creation(tmp_path):
    names = [f"{chr(97 + i % 7)}/{i * 37 % 100}.jpg" for i in range(100)]
    orders = []
    for seed in range(2):
        random.Random(seed).shuffle(names)
        make(tmp_path / str(seed), *names)
        orders.append(listed(open_source(tmp_path / str(seed))))
    assert orders[0] == orders[1] == sorted(set(names), key=lambda name: name.split("/"))


def test_folder_streams(tmp_path, monkeypatch):
    """The first image comes before later directories are listed; files are not stat'ed."""
    make(tmp_path, *(f"{i:03}/{j}.jpg" for i in range(50) for j in range(3)))
    source = open_source(tmp_path)
    real, calls = walk.list_media, []
    monkeypatch.setattr(walk, "list_media", lambda path: (calls.append(path), real(path))[1])
    iterator = iter(source)
    assert next(iterator).key == "000/0.jpg"
    assert len(calls) == 2
    stat_calls = []
    real_stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **k: (stat_calls.append(path), real_stat(path))[1])
    assert len(list(iterator)) == 149
    assert len(stat_calls) == 49  # one a directory


def test_symbolic_links_are_followed_and_loops_end(tmp_path):
    make(tmp_path, "data/a.jpg", "elsewhere/b.jpg")
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/up").symlink_to(tmp_path / "data")
    (tmp_path / "data/broken.jpg").symlink_to(tmp_path / "gone.jpg")
    assert listed(open_source(tmp_path / "data")) == ["a.jpg", "broken.jpg", "link/b.jpg"]


def test_unreadable_directory_is_an_entry(tmp_path, monkeypatch):
    make(tmp_path, "a/1.jpg", "b/2.jpg", "c/3.jpg")

    def denied(real):  # root may read everything, so it is simulated
        def call(path):
            if Path(path).name == "b":
                raise PermissionError(13, "Permission denied", path)
            return real(path)

        return call

    monkeypatch.setattr(os, "scandir", denied(os.scandir))
    monkeypatch.setattr(walk, "list_media", denied(walk.list_media))
    images = list(open_source(tmp_path))
    assert [image.key for image in images] == ["a/1.jpg", "b", "c/3.jpg"]
    assert isinstance(images[1].payload, ImageError)
    assert "Permission denied" in str(images[1].payload)
    with pytest.raises(UsageError, match="cannot be listed: Permission denied"):
        open_source(tmp_path / "b")


def test_names_that_are_no_utf8_have_distinct_printable_keys(tmp_path):
    for name in (b"\xff.jpg", b"\xfe.jpg"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).touch()
    images = list(open_source(tmp_path))
    assert [image.key for image in images] == ["\\udcfe.jpg", "\\udcff.jpg"]
    assert all(Path(image.payload).exists() for image in images)


def test_missing_and_empty_sources_say_so(tmp_path):
    with pytest.raises(UsageError, match=r"there is no source .*gone"):
        open_source(tmp_path / "gone")
    (tmp_path / "empty").mkdir()
    make(tmp_path, "empty/readme.md", "empty/.hidden/x.jpg")
    with pytest.raises(UsageError, match=r"no images found under .*empty; looked for .*\.jpg"):
        open_source(tmp_path / "empty")
    with pytest.raises(UsageError, match="no images found for the pattern"):
        open_source(f"{tmp_path}/**/*.png")
    with pytest.raises(UsageError, match=r"URL of another kind; expected .*rtsp"):
        open_source("ftp://host/a.jpg")
    with pytest.raises(UsageError, match="int is no source"):
        open_source(3)
    with pytest.raises(UsageError, match="source is empty"):
        open_source("")
    with pytest.raises(UsageError, match="vid_stride is 0"):
        open_source(tmp_path, vid_stride=0)


@pytest.mark.parametrize(
    "pattern",
    [
        "*.jpg",
        "**/*.jpg",
        "a/**",
        "a/**/*.png",
        "*/*.jpg",
        "?/[xy].*",
        "**/b/*",
        "**/b/**/*.jpg",
        "a/*",
        "**",
        "[ab]/**/*.jpg",
        ".h/*.jpg",
        "**/**/*.jpg",
    ],
)
def test_glob_agrees_with_the_standard_library(tmp_path, pattern):
    import glob

    make(
        tmp_path, "1.jpg", "a/x.jpg", "a/y.png", "a/b/x.jpg", "a/b/c/y.jpg", "b/x.jpg", "b/b/q.png"
    )
    make(tmp_path, "a/b/c/b/z.jpg", ".h/x.jpg", "a/.h/x.jpg", "a/.x.jpg", "a/note.txt", "[1].jpg")
    found = glob.glob(pattern, root_dir=tmp_path, recursive=True)  # noqa: PTH207 - the oracle
    expected = sorted(
        {name for name in found if name.endswith((".jpg", ".png"))}, key=lambda n: n.split("/")
    )
    assert expected
    images = list(open_source(f"{tmp_path}/{pattern}"))
    assert [image.payload for image in images] == [f"{tmp_path}/{name}" for name in expected]
    fixed = "" if "*" in pattern.split("/")[0] or "[" in pattern or "?" in pattern else "/"
    prefix = pattern.split("/")[0] + "/" if fixed else ""
    assert [image.key for image in images] == [name.removeprefix(prefix) for name in expected]


def test_glob_does_not_list_what_cannot_match(tmp_path, monkeypatch):
    make(tmp_path, "a/x/1.jpg", "b/x/2.jpg", "a/y/3.jpg")
    source = open_source(f"{tmp_path}/a/x*/*.jpg")
    real, seen = walk.list_media, []
    monkeypatch.setattr(
        walk, "list_media", lambda path: (seen.append(Path(path).name), real(path))[1]
    )
    assert listed(source) == ["x/1.jpg"]
    assert seen == ["a", "x"]


def test_relative_glob_and_literal_brackets(tmp_path, monkeypatch):
    make(tmp_path, "a/[1].jpg", "a/2.jpg")
    monkeypatch.chdir(tmp_path)
    assert listed(open_source("*/*.jpg")) == ["a/2.jpg", "a/[1].jpg"]
    assert listed(open_source("a/[1].jpg")) == ["[1].jpg"]


def test_list_file(tmp_path):
    make(tmp_path, "data/b.jpg", "data/a.jpg", "more/x/1.png", "more/y/2.png", "abs.jpg")
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists/all.txt"
    path.write_text(
        "\ufeff# a comment\r\n"
        "../data/b.jpg\r\n\n"
        f"{tmp_path}/abs.jpg\n"
        "../data/*.jpg\n"
        "../data/b.jpg\n"
        "../more\n"
        "gone.jpg\n"
        "../none/*.jpg",
        encoding="utf-8",
    )
    images = list(open_source(path))
    assert [image.key for image in images] == [
        "../data/b.jpg",
        f"{tmp_path}/abs.jpg",
        "../data/a.jpg",
        "../more/x/1.png",
        "../more/y/2.png",
        "gone.jpg",
        "../none/*.jpg",
    ]
    assert images[1].payload == f"{tmp_path}/abs.jpg"
    assert Path(images[0].payload).resolve() == tmp_path / "data/b.jpg"
    with pytest.raises(ImageError, match="no such file"):
        decode(images[5].payload)
    assert "nothing matches" in str(images[6].payload)
    path.write_text("# nothing\n\n")
    with pytest.raises(UsageError, match="names no files"):
        open_source(path)


class Trickle(io.RawIOBase):
    """A pipe that hands out a few bytes at a time."""

    def __init__(self, data: bytes, step: int) -> None:
        self.data, self.step = data, step

    def read1(self, size: int) -> bytes:
        chunk, self.data = self.data[: self.step], self.data[self.step :]
        return chunk


@pytest.mark.parametrize("step", [1, 3, 1000])
@pytest.mark.parametrize("end", [b"", b"\0"])
def test_stdin_separated_by_nul(step, end):
    data = b"a.jpg\0b\nc.jpg\0d e.jpg" + end
    source = open_source("-", stdin=Trickle(data, step))
    assert listed(source) == ["a.jpg", "b\nc.jpg", "d e.jpg"]
    with pytest.raises(TypeError):
        len(source)
    with pytest.raises(UsageError, match="once only"):
        list(source)


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_stdin_separated_by_newlines(step, tmp_path):
    make(tmp_path, "folder/x.jpg")
    data = f"a.jpg\r\n\nb c.jpg\na.jpg\n{tmp_path}/folder\nlast.png".encode()
    source = open_source("-", stdin=Trickle(data, step))
    assert listed(source) == ["a.jpg", "b c.jpg", f"{tmp_path}/folder/x.jpg", "last.png"]


def test_stdin_yields_before_the_end_of_input():
    read, write = os.pipe()
    os.write(write, b"first.jpg\nsecond.jpg\n")
    with os.fdopen(read, "rb") as stream:
        iterator = iter(open_source("-", stdin=stream))
        assert next(iterator).key == "first.jpg"
        assert next(iterator).key == "second.jpg"
        os.close(write)
        assert list(iterator) == []


def test_empty_stdin_is_a_usage_error():
    with pytest.raises(UsageError, match="no paths came"):
        open_source("-", stdin=io.BytesIO(b""))


def test_images_in_memory():
    colour = np.random.default_rng(0).integers(0, 256, (8, 6, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    items = [colour, colour[:, :, 0], colour[:, ::-1], data, bytearray(data)]
    items += [Image.open(io.BytesIO(data)), np.dstack((colour, colour[:, :, :1]))]
    source = open_source(items)
    assert listed(source) == [str(i) for i in range(7)]
    assert len(source) == 7
    payloads = [image.payload for image in source]
    np.testing.assert_array_equal(payloads[0], colour)
    np.testing.assert_array_equal(
        payloads[1], cv2.cvtColor(np.ascontiguousarray(colour[:, :, 0]), cv2.COLOR_GRAY2BGR)
    )
    np.testing.assert_array_equal(payloads[2], colour[:, ::-1])
    assert payloads[2].flags.c_contiguous
    assert payloads[3] == payloads[4] == data
    np.testing.assert_array_equal(payloads[5], decode(data))
    np.testing.assert_array_equal(payloads[6], colour)
    assert [image.key for image in open_source(colour)] == ["0"]


def test_lists_of_paths(tmp_path):
    make(tmp_path, "a.jpg", "f/b.jpg")
    assert listed(open_source([str(tmp_path / "a.jpg"), tmp_path / "f"])) == [
        f"{tmp_path}/a.jpg",
        f"{tmp_path}/f/b.jpg",
    ]
    with pytest.raises(UsageError, match="list of images is empty"):
        open_source([])


def test_done_images_are_left_out_and_keep_their_index(tmp_path):
    make(tmp_path, *(f"{i}.jpg" for i in range(6)))
    done = {("1.jpg", None), ("4.jpg", None), ("0.jpg", 3)}
    images = list(open_source(tmp_path, done=done))
    assert [(image.index, image.key) for image in images] == [
        (0, "0.jpg"),
        (2, "2.jpg"),
        (3, "3.jpg"),
        (5, "5.jpg"),
    ]


def test_close_ends_a_running_iteration(tmp_path):
    make(tmp_path, *(f"{i}.jpg" for i in range(6)))
    source = open_source(tmp_path)
    iterator = iter(source)
    next(iterator)
    source.close()
    assert list(iterator) == []
