"""The C files are compiled when the package is built, and found again only if they fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from brimful.native import build as native
from brimful.native import load, read_files
from brimful.native.build import CompilerError, build, library_of
from brimful.native.load import NotCompiledError, load_library

SOURCE = Path(native.__file__).with_name("copy_planes.c")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one C file."""
    shutil.copy(SOURCE, tmp_path)
    return tmp_path


def test_a_library_lies_beside_its_file_and_is_made_once(folder: Path) -> None:
    (library,) = build(folder)
    assert library.parent == folder and library.suffix == ".so"
    made = library.stat().st_mtime_ns
    assert build(folder) == [library]
    assert library.stat().st_mtime_ns == made


def test_another_text_has_another_library_and_the_old_one_goes(folder: Path) -> None:
    (old,) = build(folder)
    source = folder / SOURCE.name
    source.write_text(source.read_text() + "\n/* changed */\n")
    assert library_of(source) != old
    assert build(folder) == [library_of(source)]
    assert not old.exists() and library_of(source).exists()


def test_a_compiler_that_fails_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "false")
    with pytest.raises(CompilerError, match=r"the C compiler false failed on copy_planes\.c"):
        build(folder)
    assert [path.name for path in folder.iterdir()] == [SOURCE.name]


def test_without_a_compiler_the_build_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(CompilerError, match="there is no C compiler"):
        build(folder)


def test_it_runs_before_the_package_can_be_imported(folder: Path) -> None:
    shutil.copy(native.__file__, folder)
    done = subprocess.run(
        [sys.executable, "-I", str(folder / "build.py")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [library_of(folder / SOURCE.name).name]


def test_what_was_not_compiled_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy(SOURCE.with_name("read_files.c"), folder)
    monkeypatch.setattr(load, "__file__", str(folder / "load.py"))
    with pytest.raises(NotCompiledError, match=r"copy_planes\.c was not compiled"):
        load_library("copy_planes")
    with caplog.at_level("INFO", logger="brimful"):
        assert read_files.open_reader() is None
    assert "read_files.c was not compiled" in caplog.text


def test_a_library_that_is_none_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library_of(folder / SOURCE.name).write_bytes(b"no library")
    monkeypatch.setattr(load, "__file__", str(folder / "load.py"))
    with pytest.raises(NotCompiledError, match="cannot be loaded"):
        load_library("copy_planes")
