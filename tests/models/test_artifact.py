"""The artifact cache: the right key, built once, whole or not at all."""

import subprocess
import sys
import textwrap

import pytest

from brimful.errors import ModelError, UsageError
from brimful.models import artifact as module
from brimful.models.artifact import artifact, cache_root, digest_of
from brimful.models.model import ModelOptions, open_model
from brimful.models.signature import SpecOverrides
from model_files import saved


def test_where_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
    monkeypatch.delenv("BRIMFUL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "brimful"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "brimful"


def test_built_once(tmp_path):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "model.onnx").write_text("bytes")

    first = artifact("onnx", {"model": "a"}, build, root=tmp_path)
    again = artifact("onnx", {"model": "a"}, build, root=tmp_path)
    assert first == again
    assert len(built) == 1
    assert (first / "model.onnx").read_text() == "bytes"
    assert artifact("onnx", {"model": "b"}, build, root=tmp_path) != first
    assert artifact("engine", {"model": "a"}, build, root=tmp_path) != first


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "model.onnx").write_text("half")
        raise ModelError("broken off")

    with pytest.raises(ModelError, match="broken off"):
        artifact("onnx", {}, build, root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="BRIMFUL_CACHE"):
        artifact("onnx", {}, lambda folder: None, root=tmp_path / "file" / "cache")
    with pytest.raises(UsageError, match="BRIMFUL_CACHE"):
        artifact("onnx", {}, lambda folder: None, root=tmp_path / "file")


def test_digest(tmp_path):
    file, folder = tmp_path / "a.bin", tmp_path / "folder"
    folder.mkdir()
    file.write_bytes(b"one")
    (folder / "x").write_bytes(b"one")
    (folder / "y").write_bytes(b"two")
    before = digest_of(folder)
    (folder / "y").rename(folder / "z")
    assert digest_of(folder) != before
    (folder / "z").rename(folder / "y")
    assert digest_of(folder) == before
    (folder / "x").write_bytes(b"onetwo")
    (folder / "y").write_bytes(b"")
    assert digest_of(folder) != before
    old = digest_of(file)
    file.write_bytes(b"two")
    assert digest_of(file) != old


BUILDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from brimful.models.artifact import artifact

    root, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

    def build(folder):
        (folder / "part-1").write_text(me)
        (root.parent / me).touch()
        while not (root.parent / other).exists():  # both are building
            time.sleep(0.005)
        (folder / "part-2").write_text(me)

    print(artifact("onnx", {"model": "same"}, build, root=root))
    """
)


def test_two_processes_build_at_once(tmp_path):
    root = tmp_path / "cache"
    command = [sys.executable, "-c", BUILDER, str(root)]
    pairs = [("one", "two"), ("two", "one")]
    running = [
        subprocess.Popen([*command, *pair], stdout=subprocess.PIPE, text=True) for pair in pairs
    ]
    folders = {process.communicate(timeout=200)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    (folder,) = root.iterdir()  # one artifact, and no leftovers of the slower one
    assert folders == {str(folder)}
    assert (folder / "part-1").read_text() == (folder / "part-2").read_text()


def test_a_model_is_converted_once_for_each_way_of_reading_it(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path))
    path = saved("yolov8n.yaml")
    first = open_model(path).as_onnx()
    stamp = first.stat().st_mtime_ns
    assert open_model(path).as_onnx() == first
    assert first.stat().st_mtime_ns == stamp

    def no_build(kind, facts, build):
        return module.artifact(kind, facts, lambda folder: None, root=tmp_path / "keys")

    # the keys alone, without the conversions
    monkeypatch.setattr("brimful.models.model.artifact", no_build)
    named = SpecOverrides(names=tuple("abcde"))
    keys = {
        open_model(path, options).as_onnx()
        for options in (
            ModelOptions(),
            ModelOptions(nms=True),
            ModelOptions(max_det=500),
            ModelOptions(overrides=named),
            ModelOptions(max_det=100),  # the same as 300: a head returns at least that many
        )
    }
    assert len(keys) == 4
    other = tmp_path / "copy.pt"
    other.write_bytes(path.read_bytes())
    assert open_model(other).as_onnx() in keys  # content, not name, decides
    monkeypatch.setattr("brimful.models.model.installed_version", lambda *_: "0.0.1")
    assert open_model(path).as_onnx() not in keys


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pt", "there is no model file"),
        ("missing.xml", "there is no model file"),
        ("model.engine", "expected one of"),
        ("folder", "one .xml and one .bin"),
    ],
)
def test_what_is_no_model(name, message, tmp_path):
    (tmp_path / "model.engine").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match=message):
        open_model(tmp_path / name)
