"""Names of label files: folders below one folder, after the keys of images."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

_LONGEST_NAME = 200  # bytes; file systems take 255, and endings are added


def make_folder(root: Path, names: list[str]) -> Path:
    """Return a folder below another one, made where it is missing.

    Args:
        root: The folder that exists.
        names: What leads from there to it.
    """
    folder = root
    for name in names:
        below = folder / name
        while below.is_file():  # `b.txt/` beside the labels of `b.jpg`
            below = below.with_name(f"{below.name}_")
        folder = below
        folder.mkdir(exist_ok=True)
    return folder


def components(key: str) -> list[str]:
    """Return the parts of a key as names that stay inside the folder."""
    parts = [part for part in key.split("/") if part not in ("", ".")]
    return [_safe("__" if part == ".." else part) for part in parts] or ["image"]


def _safe(name: str) -> str:
    encoded = name.encode()
    if len(encoded) <= _LONGEST_NAME and "\0" not in name:
        return name
    start = encoded[: _LONGEST_NAME - 40].decode(errors="ignore").replace("\0", "_")
    return f"{start}-{blake2b(encoded, digest_size=8).hexdigest()}"
