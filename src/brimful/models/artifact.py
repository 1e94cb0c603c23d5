"""The artifact cache: a converted model is built once and reused.

Artifacts live under `$BRIMFUL_CACHE`, else `$XDG_CACHE_HOME/brimful`, else `~/.cache/brimful`, in
one folder per key. The key is a hash of everything that decides the bytes: the model's content,
the kind of artifact, its options, and the versions of the libraries that made it. Nothing is
ever updated in place: a folder is built beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from brimful.errors import UsageError


def cache_root() -> Path:
    """Return the folder of the artifact cache; it may not exist yet."""
    if chosen := os.environ.get("BRIMFUL_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "brimful"


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their names, in hex."""
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        if file != path:
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
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
) -> Path:
    """Return the folder of an artifact, building it if the cache does not have it.

    Args:
        kind: What it is, the start of the folder's name, such as `onnx`.
        facts: Everything that decides the artifact's bytes; JSON values.
        build: Fills the folder it is given; called at most once, on a cache miss.
        root: The cache, `cache_root()` by default.

    Raises:
        UsageError: The cache cannot be written.
    """
    text = json.dumps({"kind": kind, **facts}, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    root = root or cache_root()
    folder = root / f"{kind}-{key}"
    if folder.is_dir():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{kind}-", dir=root))
    except OSError as error:
        raise UsageError(
            f"cannot write the artifact cache {root}: {error}. "
            "Point BRIMFUL_CACHE at a folder that can be written"
        ) from error
    try:
        build(building)
        (building / "facts.json").write_text(text + "\n")
        try:
            building.rename(folder)
        except OSError:  # another process was faster: its artifact is the same
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder
