"""The artifact cache: the right key, built once, whole or not at all."""

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from brimful.errors import ExportError, ModelError, UsageError
from brimful.models import artifact as module
from brimful.models.artifact import artifact, cache_root, digest_of
from brimful.models.model import Model, ModelOptions, open_model
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


@pytest.mark.parametrize("damage", ["lost", "short", "a folder", "no list", "no facts"])
def test_an_artifact_that_lost_a_file_is_made_again(damage, tmp_path):
    built = []

    def build(folder):
        built.append(folder)
        (folder / "part").mkdir()
        (folder / "part" / "model.onnx").write_text("bytes")

    folder = artifact("onnx", {}, build, root=tmp_path)
    model = folder / "part" / "model.onnx"
    if damage == "short":
        model.write_text("byt")
    elif damage in ("no list", "no facts"):
        (folder / (module.FILES if damage == "no list" else module.FACTS)).unlink()
    else:
        model.unlink()
        if damage == "a folder":
            model.mkdir()
    assert artifact("onnx", {}, build, root=tmp_path) == folder
    assert model.read_text() == "bytes"
    assert len(built) == 2
    assert list(tmp_path.iterdir()) == [folder]


def test_everything_is_on_the_disk_before_it_has_its_place(tmp_path, monkeypatch):
    """After a power cut there is no artifact, or a whole one."""
    events = []
    sync, rename = os.fsync, Path.rename

    def noted(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    def renamed(self, target):
        events.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    artifact("onnx", {}, lambda folder: (folder / "m").write_text("x"), root=tmp_path / "cache")
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert set(before) == {"m", module.FACTS, module.FILES, "artifact"}
    assert after == ["cache"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o077, 0o700), (0o000, 0o755)])
def test_modes_follow_the_umask(umask, mode, tmp_path):
    """Others can read a shared cache, and nobody but its user can write it."""
    before = os.umask(umask)
    try:
        folder = artifact(
            "onnx", {}, lambda f: (f / "m").write_text("x"), root=tmp_path / "a" / "cache"
        )
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert stat.S_IMODE(folder.parent.stat().st_mode) == mode
    for name in ("m", module.FACTS, module.FILES):
        assert stat.S_IMODE((folder / name).stat().st_mode) == mode & 0o644


def whole(folder):
    (folder / "library.so").write_text("code")


def not_built(folder):
    raise AssertionError("it was there")


@pytest.mark.parametrize("mode", [0o777, 0o757])
@pytest.mark.parametrize("there", [True, False])
def test_a_cache_that_others_can_write_is_refused(mode, there, tmp_path):
    if there:
        artifact("native", {}, whole, root=tmp_path)
    tmp_path.chmod(mode)
    with pytest.raises(UsageError, match=rf"written by others \(mode {mode:04o}\).*chmod go-w"):
        artifact("native", {}, not_built, root=tmp_path)
    tmp_path.chmod(mode | stat.S_ISVTX)  # there others cannot touch what is not theirs
    artifact("native", {}, not_built if there else whole, root=tmp_path)


def test_a_group_of_others(tmp_path, monkeypatch):
    root = tmp_path / "cache"
    folder = artifact("native", {}, whole, root=root)
    monkeypatch.setattr("brimful.models.ownership._is_private", lambda group: False)
    root.chmod(0o775)
    with pytest.raises(UsageError, match="written by others"):
        artifact("native", {}, not_built, root=root)
    root.chmod(0o755)
    for path in (folder, folder / "library.so"):
        mode = path.stat().st_mode
        path.chmod(mode | stat.S_IWGRP)
        with pytest.raises(UsageError, match=r"may be written by others .* Remove"):
            artifact("native", {}, not_built, root=root)
        path.chmod(mode)
    artifact("native", {}, not_built, root=root)
    monkeypatch.setattr("brimful.models.ownership._is_private", lambda group: True)
    root.chmod(0o775)
    artifact("native", {}, not_built, root=root)


def test_a_link_in_an_artifact_is_refused(tmp_path):
    folder = artifact("native", {}, whole, root=tmp_path / "cache")
    (folder / "library.so").rename(tmp_path / "planted.so")
    (folder / "library.so").symlink_to(tmp_path / "planted.so")
    with pytest.raises(UsageError, match=r"library\.so in the artifact cache"):
        artifact("native", {}, not_built, root=tmp_path / "cache")


def given_away(monkeypatch, *paths):
    """Make files those of another user."""
    if os.geteuid() == 0:
        for path in paths:
            os.chown(path, 12345, -1)
    else:  # or make this process that of another user
        monkeypatch.setattr(os, "geteuid", lambda: 12345)


def test_the_code_of_another_user_is_refused(tmp_path, monkeypatch):
    root = tmp_path / "cache"
    folder = artifact("native", {}, whole, root=root, runs=True)
    given_away(monkeypatch, root, folder, *folder.iterdir())
    with pytest.raises(UsageError, match=r"belongs to user .* a folder of your own"):
        artifact("native", {}, not_built, root=root, runs=True)
    # a shared cache: its owner's models are read
    assert artifact("native", {}, not_built, root=root) == folder


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give files away")
@pytest.mark.parametrize("runs", [True, False])
def test_an_artifact_of_neither_user(runs, tmp_path):
    folder = artifact("native", {}, whole, root=tmp_path)
    os.chown(folder / "library.so", 12345, -1)
    with pytest.raises(UsageError, match=r"library\.so belongs to user 12345"):
        artifact("native", {}, not_built, root=tmp_path, runs=runs)


def test_a_model_is_hashed_once(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    path.write_bytes(b"one")
    opened = []
    opens = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: opened.append(self) or opens(self, *a, **k)
    )
    digests = {digest_of(path), digest_of(path), Model(path, "pt", ModelOptions()).digest}
    assert len(digests) == 1
    assert opened == [path]
    path.write_bytes(b"two")
    assert digest_of(path) not in digests


def test_what_was_hashed_is_converted(tmp_path, monkeypatch):
    """A file that is replaced in between must not become another one's artifact."""
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.pt"
    path.write_bytes(saved("yolov8n.yaml").read_bytes())
    model = open_model(path)
    assert len(model.digest) == 64
    path.write_bytes(saved("yolo26n.yaml").read_bytes())
    with pytest.raises(ModelError, match=r"model\.pt has changed while it was being converted"):
        model.as_onnx()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_conversion_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("brimful.models.convert.LIMIT_S", 0.05)
    with pytest.raises(ExportError, match=r"was given up after 0 s"):
        open_model(saved("yolov8n.yaml")).as_onnx()


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
