"""Walk: the files below a folder, in a stable order, one directory in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from brimful.errors import ImageError
from brimful.sources import key as keys
from brimful.sources.suffixes import is_media


class Selection(Protocol):
    """Which directories are entered and which files are taken.

    A directory is given as its path below the root, split: `()` is the root itself.
    """

    def enters(self, directory: tuple[str, ...]) -> bool:
        """Tell whether anything at or below a directory can be taken."""
        ...

    def takes(self, directory: tuple[str, ...], name: str) -> bool:
        """Tell whether a file of a directory is taken."""
        ...


class AllMedia:
    """Every image and video, hidden files and hidden directories left out."""

    def enters(self, directory: tuple[str, ...]) -> bool:
        """Enter every directory that is not hidden."""
        return not directory or not directory[-1].startswith(".")

    def takes(self, directory: tuple[str, ...], name: str) -> bool:
        """Take files with a known suffix that are not hidden."""
        return not name.startswith(".") and is_media(name)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file found below a folder, or a directory that could not be listed.

    Attributes:
        path: Path to open.
        key: Path below the folder, with forward slashes.
        error: Why the directory could not be listed, None for a file.
    """

    path: str
    key: str
    error: ImageError | None = None


def walk(root: str, selection: Selection) -> Iterator[Entry]:
    """Yield the selected files below `root`, sorted by path components.

    Only the names of the directories on the way to the current one are held: a million files in
    ten thousand directories cost what the largest directory costs. No file is opened and none
    but symbolic links are stat'ed. Links to directories are followed, unless they lead back to
    a directory on the way here.
    """
    return _walk(root, "", (), selection, frozenset())


def holds_any(root: str, selection: Selection) -> bool:
    """Tell whether `walk` would yield anything, stopping at the first find, without sorting."""
    pending: list[tuple[str, tuple[str, ...]]] = [(root, ())]
    seen: set[tuple[int, int]] = set()
    while pending:
        path, parts = pending.pop()
        try:
            identity = _identity(path)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(path) as entries:
                for entry in entries:
                    if _is_directory(entry):
                        below = (*parts, entry.name)
                        if selection.enters(below):
                            pending.append((entry.path, below))
                    elif selection.takes(parts, entry.name):
                        return True
        except OSError:
            return True  # walk yields the error
    return False


def _walk(
    path: str,
    key: str,
    parts: tuple[str, ...],
    selection: Selection,
    above: frozenset[tuple[int, int]],
) -> Iterator[Entry]:
    try:
        identity = _identity(path)
        if identity in above:  # a link that leads back up
            return
        found = _list(path, parts, selection)
    except OSError as error:
        reason = error.strerror or str(error)
        yield Entry(path, key or ".", ImageError(f"the folder cannot be listed: {reason}"))
        return
    above = above | {identity}
    for name, is_directory in found:
        below = keys.join(key, keys.printable(name))
        if is_directory:
            yield from _walk(f"{path}/{name}", below, (*parts, name), selection, above)
        else:
            yield Entry(f"{path}/{name}", below)


def _list(path: str, parts: tuple[str, ...], selection: Selection) -> list[tuple[str, bool]]:
    found: list[tuple[str, bool]] = []
    with os.scandir(path) as entries:
        for entry in entries:
            if _is_directory(entry):
                if selection.enters((*parts, entry.name)):
                    found.append((entry.name, True))
            elif selection.takes(parts, entry.name):
                found.append((entry.name, False))
    found.sort()
    return found


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed; reading it will say so
        return False


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - a Path per directory is what this file avoids
    return status.st_dev, status.st_ino
