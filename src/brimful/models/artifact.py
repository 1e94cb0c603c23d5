"""The artifact cache: a converted model is built once and reused.

Artifacts live under `$BRIMFUL_CACHE`, else `$XDG_CACHE_HOME/brimful`, else `~/.cache/brimful`, in
one folder per key. The key is a hash of everything that decides the bytes: the model's content,
the kind of artifact, its options, and the versions of the libraries that made it. Nothing is
ever updated in place: a folder is built beside, brought to the disk, and renamed. One that
lost a file is made again. A cache may be shared by users who read what its owner put there.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from brimful.errors import UsageError
from brimful.models.ownership import check_artifact, check_root

FACTS, FILES = "facts.json", "files.json"
"""What decided an artifact's bytes; the sizes of its files by name."""


def cache_root() -> Path:
    """Return the folder of the artifact cache; it may not exist yet."""
    if chosen := os.environ.get("BRIMFUL_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "brimful"


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names, in hex.

    A file that has not changed since is not read again.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    names = [b"" if file == path else file.relative_to(path).as_posix().encode() for file in files]
    states = [file.stat() for file in files]
    seen = [(s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in states]
    return _digest(tuple(files), tuple(names), tuple(seen))


@functools.lru_cache(maxsize=64)
def _digest(files: tuple[Path, ...], names: tuple[bytes, ...], seen: tuple[object, ...]) -> str:
    """Hash files; `seen` is what tells that they are the same as before."""
    digest = hashlib.sha256()
    for file, name in zip(files, names, strict=True):
        if name:
            digest.update(name + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def artifact(
    kind: str,
    facts: Mapping[str, object],
    build: Callable[[Path], None],
    *,
    root: Path | None = None,
    runs: bool = False,
) -> Path:
    """Return the folder of an artifact, building it if the cache does not have it whole.

    Args:
        kind: What it is, the start of the folder's name, such as `onnx`.
        facts: Everything that decides the artifact's bytes; JSON values.
        build: Fills the folder it is given; called at most once, on a cache miss.
        root: The cache, `cache_root()` by default.
        runs: It is code, which the caller is going to run.

    Raises:
        UsageError: The cache cannot be written, or others may write there (`ownership`).
    """
    root = root or cache_root()
    folder, text = _place(root, kind, facts)
    if root.is_dir():
        check_root(root, runs=runs)
    if not _is_whole(folder, text):
        _make(folder, text, build, runs=runs)
    check_artifact(root, folder, runs=runs)
    return folder


def kept_artifact(kind: str, facts: Mapping[str, object]) -> Path | None:
    """Return the folder of an artifact that is not going to be run, None where there is none.

    Raises:
        UsageError: Others may write to the cache (`ownership`).
    """
    root = cache_root()
    folder, text = _place(root, kind, facts)
    if not root.is_dir() or not _is_whole(folder, text):
        return None
    check_root(root, runs=False)
    check_artifact(root, folder, runs=False)
    return folder


def _place(root: Path, kind: str, facts: Mapping[str, object]) -> tuple[Path, str]:
    """Return the folder of an artifact, and the text that decides its bytes."""
    text = json.dumps({"kind": kind, **facts}, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    return root / f"{kind}-{key}", text


def _make(folder: Path, text: str, build: Callable[[Path], None], *, runs: bool) -> None:
    """Build an artifact beside its folder and put it there."""
    root = folder.parent
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.mkdir(mode=0o755, exist_ok=True)
        # A folder of temporary name is its user's alone; what is in it follows the umask.
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=root))
        building = scratch / "artifact"
        building.mkdir(mode=0o755)
    except OSError as error:
        raise _unwritable(root, error) from error
    try:
        check_root(root, runs=runs)
        build(building)
        try:
            _seal(building, text)
            _put(building, folder, text)
        except OSError as error:
            raise _unwritable(root, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _seal(building: Path, text: str) -> None:
    """Write down what the artifact consists of, and bring all of it to the disk."""
    parts = list(building.rglob("*"))
    sizes = {
        part.relative_to(building).as_posix(): part.stat().st_size
        for part in parts
        if part.is_file()
    }
    (building / FACTS).write_text(text + "\n")
    (building / FILES).write_text(json.dumps(sizes) + "\n")
    for part in (*parts, building / FACTS, building / FILES, building):
        part.chmod(part.stat().st_mode & 0o755)  # whatever the umask: only its user writes it
        _sync(part)


def _put(building: Path, folder: Path, text: str) -> None:
    """Give an artifact its place, where a damaged one may be."""
    try:
        building.rename(folder)
    except OSError:
        if _is_whole(folder, text):  # another process was faster: its artifact is the same
            return
        folder.rename(building.with_name("damaged"))
        building.rename(folder)
    _sync(folder.parent)


def _is_whole(folder: Path, text: str) -> bool:
    """Tell whether an artifact is there with every file that it was made of."""
    try:
        if (folder / FACTS).read_text() != text + "\n":
            return False
        sizes = json.loads((folder / FILES).read_text())
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sync(path: Path) -> None:
    """Bring a file or a folder to the disk, where the file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _unwritable(root: Path, error: OSError) -> UsageError:
    return UsageError(
        f"cannot write the artifact cache {root}: {error}. "
        "Point BRIMFUL_CACHE at a folder that can be written"
    )
