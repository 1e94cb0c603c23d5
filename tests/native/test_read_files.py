"""Files read together: the bytes of each, and nothing of what is no ordinary file."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from brimful.native import read_files
from brimful.native.read_files import ALIGNMENT, TOGETHER, FileReader, Starts

pytestmark = pytest.mark.skipif(
    not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler here"
)


@pytest.fixture(scope="module")
def reader() -> FileReader:
    return FileReader()


def pinned_for(size: int) -> memoryview:
    return memoryview(bytearray(b"?" * size))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_each_file_has_its_own_bytes(reader: FileReader, tmp_path: Path) -> None:
    sizes = (1, 4095, 4096, 4097, 300_000)
    contents = [os.urandom(size) for size in sizes]
    paths: list[str | Path] = []
    for i, content in enumerate(contents):
        path = tmp_path / f"bild-{i}-ä.jpg"
        path.write_bytes(content)
        paths.append(path if i % 2 else str(path))
    before = descriptors()
    found = reader.read(paths, pinned_for)
    assert [bytes(file[0]) for file in found if file is not None] == contents
    assert descriptors() == before


def test_what_is_no_ordinary_file_is_left_to_others(reader: FileReader, tmp_path: Path) -> None:
    good, empty, pipe = tmp_path / "good", tmp_path / "empty", tmp_path / "pipe"
    good.write_bytes(b"pixels")
    empty.touch()
    os.mkfifo(pipe)
    large = tmp_path / "large"
    with large.open("wb") as stream:
        stream.truncate(read_files.LARGEST + 1)
    odd = [tmp_path, empty, pipe, large, tmp_path / "none", f"{good}\0", "", "/dev/zero"]
    before = descriptors()
    assert reader.read(odd, pinned_for) == [None] * len(odd)
    assert [d is None for d in reader.read([*odd, good], pinned_for)] == [True] * 8 + [False]
    assert descriptors() == before
    assert reader.read([], pinned_for) == []


def test_a_name_that_is_no_text_is_a_name(reader: FileReader, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.jpg")
    Path(path).write_bytes(b"pixels")
    (file,) = reader.read([path], pinned_for)
    assert file is not None and file[0] == b"pixels"


def test_a_name_that_no_file_can_have_is_left_to_others(reader: FileReader, tmp_path: Path) -> None:
    good = tmp_path / "good.jpg"
    good.write_bytes(b"pixels")
    for odd in ("\ud800.jpg", f"{good}\ud800", "\udfff\0", "\ud83d\ude00"):
        for paths in ([odd], [good, odd], [odd, "a\0b", good]):
            found = reader.read(paths, pinned_for)
            assert [file is not None for file in found] == [path == good for path in paths]


def test_without_memory_a_file_is_left_to_others(reader: FileReader, tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    for path in paths:
        path.write_bytes(b"12345" if path.name == "a" else b"123456")
    before = descriptors()
    found = reader.read(paths, lambda size: pinned_for(size) if size == 6 else None)
    assert found[0] is None and found[1] is not None and found[1][0] == b"123456"
    assert descriptors() == before


def test_files_share_memory_up_to_a_bound(reader: FileReader, tmp_path: Path) -> None:
    sizes = (1, 100, 64, TOGETHER, 5, TOGETHER - 2 * ALIGNMENT, 60, 70)
    contents = [os.urandom(size) for size in sizes]
    paths = [tmp_path / str(i) for i in range(len(sizes))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    asked: list[int] = []

    def noted(size: int) -> memoryview:
        asked.append(size)
        return pinned_for(size)

    files = reader.read([*paths[:2], tmp_path / "none", *paths[2:]], noted)
    assert files.pop(2) is None
    assert [bytes(file[0]) for file in files if file is not None] == contents
    for file in files:
        assert file is not None and ctypes.string_at(file[1], 1) == bytes(file[0][:1])
    together = 5 + (ALIGNMENT - 5) + (TOGETHER - 2 * ALIGNMENT) + 60
    assert asked == [3 * ALIGNMENT + 64, TOGETHER, together, 70]


def test_known_starts_are_told(reader: FileReader, tmp_path: Path) -> None:
    end = b"\xff\xd9"
    contents = [b"abcd...." + end, b"abcd...", b"abXd" + end, b"ab" + end, b"ab", end, b"\xd9"]
    paths = [tmp_path / str(i) for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)

    def told(*starts: bytes) -> list[int]:
        files = reader.read(paths, pinned_for, Starts(starts))
        assert all(file is not None for file in files)
        return [file[2] for file in files if file is not None]

    assert told() == [-1] * 7
    assert told(b"abcd", b"ab", b"abcd..") == [0, -1, 1, 1, -1, -1, -1]
    assert told(b"ab", b"abcd") == [0, -1, 0, 0, -1, -1, -1]
    long = [content + b"?" for content in contents]  # as the memory behind a file is filled
    assert told(b"abX", b"abcd", *long) == [1, -1, 0, -1, -1, -1, -1]


def test_nothing_before_a_file_is_looked_at(reader: FileReader, tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_bytes(b"." * (ALIGNMENT - 1) + b"\xff")
    paths[1].write_bytes(b"\xd9")
    files = reader.read(paths, pinned_for, Starts([b"\xd9"]))
    assert [file[2] for file in files if file is not None] == [-1, -1]


def test_files_are_closed_when_memory_fails(reader: FileReader, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")

    def fail(size: int) -> memoryview:
        raise MemoryError

    before = descriptors()
    with pytest.raises(MemoryError):
        reader.read([path] * 3, fail)
    assert descriptors() == before


def test_a_file_that_is_cut_while_it_is_read_is_left_to_others(
    reader: FileReader, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")

    def cut(size: int) -> memoryview:
        path.write_bytes(b"123")
        return pinned_for(size)

    assert reader.read([path], cut) == [None]
