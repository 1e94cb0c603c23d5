"""Listing a folder: what os.listdir and os.path say, file by file."""

from __future__ import annotations

import os
import random
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brimful.sources import open_source
from brimful.sources.listing import list_media
from brimful.sources.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES

SUFFIXES = sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES)


def told(folder: Path) -> tuple[list[str], list[str]]:
    """Tell the same by the oracle."""
    files, directories = [], []
    for name in os.listdir(folder):  # noqa: PTH208 - the oracle
        stem, dot, ending = name.rpartition(".")
        if (folder / name).is_dir():
            directories.append(name)
        elif dot and stem and "." + ending.lower() in SUFFIXES:
            files.append(name)
    return sorted(files), sorted(directories)


def check(folder: Path) -> tuple[list[str], list[str]]:
    files, directories, others = list_media(str(folder))
    every = os.listdir(folder)  # noqa: PTH208 - the oracle
    assert sorted([*files, *directories, *others]) == sorted(every)
    assert (files, sorted(directories)) == told(folder)
    return files, directories


def test_odd_names(tmp_path):
    odd = [b"\xff.jpg", b"\xe2\x82", b"\xe2\x82.jpg", b"a\xc3", b"\xc3.png", b"new\nline.jpg"]
    odd += [b".jpg", b"..jpg", b"...", b"..a.png", b"jpg", b"a.", b"a.jpg.", b"a.jpg.txt", b" .jpg"]
    odd += [b"a.jp", b"a.jpgg", b"a.j\xff", b"a.tar.jpg", b"a.longsuffix.jpg", b"a.12345678.jpg"]
    odd += [b"a.xxxxxxxx.jpg", b"a.xxxxxxxxx\x2ejpgx", b"a.aaaaa.mp4x", b".hidden.jpg", b"-.jpg"]
    odd += [
        "ü.JPG",
        "a.MKV",
        "a.m\u212av",
        "b.M2TS",
        "b.jpeg",
        "日本.webp",
        "a.日本",
        "\U0001f600.png",
    ]
    odd += [
        "\ue000.png",
        "\ufb01.png",
        "a@.png",
        "a.jp`",
        "a.JP[",
        "a.p\u0130g",
        "n" * 251 + ".jpg",
    ]
    for name in odd:
        (tmp_path / os.fsdecode(name)).touch()
    for i, suffix in enumerate(SUFFIXES):
        (tmp_path / f"{i}{suffix}").touch()
        (tmp_path / f"{i}{suffix.upper()}").touch()
        (tmp_path / f"{i}{suffix}x").touch()
    files, _ = check(tmp_path)
    assert len(files) == len(set(files)) > 2 * len(SUFFIXES)
    assert {"a.m\u212av", "\udcff.jpg", "new\nline.jpg", ".hidden.jpg"} <= set(files)


def test_kinds_of_entries(tmp_path):
    (tmp_path / "real.jpg").touch()
    for name in ("sub", "sub.jpg", ".hidden", "日本", "\udcfe", "x.日本"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.png"))
    links = {
        "to_folder": "sub",
        "to_folder.jpg": "sub",
        "to_file.jpg": "real.jpg",
        "to_file": "sub",
    }
    links |= {"broken.jpg": "gone", "broken": "gone", "self.jpg": "self.jpg", "up": "."}
    links |= {"file.jpg": "real.jpg/x", "dev.jpg": "/dev/null", "twice.png": "to_folder"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    files, directories = check(tmp_path)
    assert {"broken.jpg", "self.jpg", "pipe.jpg", "socket.png", "dev.jpg"} <= set(files)
    assert {"to_folder.jpg", "up", "twice.png", ".hidden"} <= set(directories)


@pytest.mark.parametrize("count", [0, 1, 2, 255, 256, 257, 3000])
def test_sizes_and_orders(tmp_path, count):
    random.seed(count)
    for i in range(count):
        name = random.choice((f"{i:012}", f"{i}", f"same{i:020}", f"{random.random()}", f"ü{i}ÿ"))
        (tmp_path / (name + random.choice((".jpg", ".JPG", ".png", ".txt", ".m\u212av")))).touch()
    check(tmp_path)


@pytest.mark.parametrize("prefix", ["-", "a_prefix_of_all_that_is_long", "日本", "same1234"])
def test_names_that_share_their_start(tmp_path, prefix):
    for i in range(500):
        (tmp_path / f"{prefix}{i * 7919 % 500}.jpg").touch()
    (tmp_path / f"{prefix}.jpg").touch()
    assert len(check(tmp_path)[0]) == 501


PARTS = tuple(os.fsencode(part) for part in (*"ab0-~B.", "12345678", "abcdefg", "\udcff", "\udcc3"))
PARTS += tuple(part.encode() for part in ("ü", "日", "\ue000", "\ufb01", "\U0001f600"))
NAMES = st.lists(st.sampled_from(PARTS), max_size=12).map(b"".join)
FOLDERS = st.sets(NAMES, max_size=40) | st.sets(NAMES, min_size=60, max_size=150)


@settings(max_examples=40, deadline=None)
@given(FOLDERS, st.sampled_from((b"", b"start", b"8 bytes." * 19)))
def test_any_names_are_in_the_order_of_their_code_points(names, prefix):
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            Path(folder, os.fsdecode(prefix + name + b".jpg")).touch()
        with os.scandir(folder) as entries:
            expected = sorted(e.name for e in entries if e.name.rindex("."))  # not named .jpg alone
        assert list_media(folder)[:2] == (expected, [])


def test_what_cannot_be_listed_has_the_error_of_scandir(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for name in ("file", "gone", "loop", "n" * 300, "file/x"):
        with pytest.raises(OSError) as expected:
            os.scandir(tmp_path / name)
        with pytest.raises(OSError) as found:
            list_media(str(tmp_path / name))
        assert type(found.value) is type(expected.value)
        assert found.value.strerror == expected.value.strerror
        assert found.value.filename == str(tmp_path / name)


def test_nothing_stays_open(tmp_path):
    (tmp_path / "a.jpg").touch()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        check(tmp_path)
        with pytest.raises(NotADirectoryError):
            list_media(str(tmp_path / "a.jpg"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("hidden", [(), (".a.jpg",), (".a.jpg", "..b.jpg", ".~.png")])
@pytest.mark.parametrize("shown", [("0.jpg",), ("-.jpg",), (" .jpg", "-.jpg", "0.jpg", "a.jpg")])
def test_hidden_files_are_left_out(tmp_path, hidden, shown):
    for name in (*hidden, *shown):
        (tmp_path / name).touch()
    assert [image.key for image in iter(open_source(tmp_path))] == sorted(shown)
    if hidden:
        pattern = open_source(f"{tmp_path}/.*")
        assert [image.key for image in iter(pattern)] == sorted(hidden)
