"""The C lister itself: what it refuses, and where there is none."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from brimful.native import list_folder
from brimful.native.list_folder import FolderLister

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)


@pytest.mark.parametrize("suffix", ["", ".", "jpg", ".JPG", ".jpég", ".longlong"])
def test_a_suffix_that_c_cannot_look_for_is_refused(suffix: str) -> None:
    with pytest.raises(ValueError, match="lower-case ASCII suffix"):
        FolderLister([suffix])


def test_only_its_suffixes_are_listed(tmp_path: Path) -> None:
    for name in ("a.abcdefg", "b.ABCDEFG", "c.abcdefgh", "d.bcdefg", "e.jpg", "f.x"):
        (tmp_path / name).touch()
    assert FolderLister([".abcdefg", ".x"]).list(str(tmp_path))[0] == [
        *("a.abcdefg", "b.ABCDEFG", "f.x")
    ]
    for name in ("a.Z{`", "b.z[`", "c.z{@", "d.9z{`", "e.abcdefghz{`"):
        (tmp_path / name).touch()
    assert FolderLister([".z{`"]).list(str(tmp_path))[0] == ["a.Z{`"]
    assert FolderLister([]).list(str(tmp_path)) == ([], [])


def sorted_by_c(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return the names of a folder in the order in which C returns them, before Python sorts."""
    decoded: list[list[str]] = []
    decode = list_folder._decode
    with monkeypatch.context() as patch:
        patch.setattr(list_folder, "_decode", lambda n: decoded.append(decode(n)) or decode(n))
        names, _ = FolderLister([".jpg"]).list(str(folder))
    assert names == sorted(names)
    files, *_ = decoded
    return [os.fsencode(name) for name in files]


@pytest.mark.parametrize(
    ("prefixes", "count"),
    [
        ([b""], 2),
        ([b""], 31),
        ([b""], 32),
        ([b"image_"], 1000),
        ([b"a name with more than eight bytes"], 1000),
        ([b"camera_1_", b"camera_2_", b"camera_10_", b"c", b"\xff\xc3\xa9", b"12345678"], 400),
        ([b"image_"], 100_000),
    ],
)
def test_c_sorts_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefixes: list[bytes], count: int
) -> None:
    numbers = random.Random(0).sample(range(10 * count), count)
    tails = b".jpg", b".jpg", b"\xc3\xa9.jpg", b"\xff.jpg", b"~.jpg"
    made = [b"%s%d%s" % (p, n, tails[n % 5]) for p in prefixes for n in numbers]
    made += [b"%s.jpg" % prefix for prefix in prefixes if prefix]
    folder, files = tmp_path / "folder", [tmp_path / f"{i}" for i in range(10)]
    folder.mkdir()
    for file in files:  # ext4 has 65,000 names for a file at most
        file.touch()
    for i, name in enumerate(made):
        os.link(files[i % 10], os.fsencode(folder) + b"/" + name)
    found = sorted_by_c(folder, monkeypatch)
    if len(found) < 10 and found[0] > found[-1]:  # so few may come the other way round, and stay so
        found.reverse()
    assert found == sorted(made)
