"""Walk: the files below a folder, in a stable order, one directory in memory at a time.

Everything comes in lists: a job of a million files passes through here file by file, and a
generator's turn an image costs as much as the work itself.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from brimful.errors import ImageError
from brimful.sources.key import printable
from brimful.sources.listing import is_directory, list_media
from brimful.sources.skipped import Skipped
from brimful.sources.suffixes import kind_of


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

    def taken(self, directory: tuple[str, ...], names: list[str]) -> list[str]:
        """Return those of some files of a directory, which are sorted, that are taken.

        They are of one kind: images and videos, or none of these.
        """
        ...


class AllMedia:
    """Every image and video, hidden files and hidden directories left out."""

    def enters(self, directory: tuple[str, ...]) -> bool:
        """Enter every directory that is not hidden."""
        return not directory or not directory[-1].startswith(".")

    def takes(self, directory: tuple[str, ...], name: str) -> bool:
        """Take files with a known suffix that are not hidden."""
        return kind_of(name) is not None and not name.startswith(".")

    def taken(self, directory: tuple[str, ...], names: list[str]) -> list[str]:
        """Take those that are not hidden, all at once."""
        # Sorted, hidden names are side by side: "/" comes after ".", and no name has it.
        return names[: bisect_left(names, ".")] + names[bisect_left(names, "/") :]


CHUNK = 64
"""Files in a list at most."""


@dataclass(slots=True)
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


def walk(root: str, selection: Selection, skipped: Skipped | None = None) -> Iterator[list[Entry]]:
    """Yield the selected files below `root`, sorted by path components, in lists.

    Only the names of the directories on the way to the current one are held: a million files in
    ten thousand directories cost what the largest directory costs. No file is opened and none
    but symbolic links are stat'ed. Links to directories are followed, unless they lead back to
    a directory on the way here.

    Args:
        root: The folder.
        selection: What is entered and taken.
        skipped: Told of the files that would be taken if they were images or videos.
    """
    return _walk(root, "", (), selection, skipped, frozenset())


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
                    if is_directory(entry):
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
    skipped: Skipped | None,
    above: frozenset[tuple[int, int]],
) -> Iterator[list[Entry]]:
    try:
        identity = _identity(path)
        if identity in above:  # a link that leads back up
            return
        names, directories = _list(path, parts, selection, skipped)
    except OSError as error:
        reason = error.strerror or str(error)
        yield [Entry(path, key or ".", ImageError(f"the folder cannot be listed: {reason}"))]
        return
    above = above | {identity}
    folder = f"{key}/" if key else ""
    start = 0
    for at in [i for i, name in enumerate(names) if name in directories] if directories else ():
        yield from _entries(path, folder, names[start:at])
        name = names[at]
        yield from _walk(
            f"{path}/{name}", folder + printable(name), (*parts, name), selection, skipped, above
        )
        start = at + 1
    yield from _entries(path, folder, names[start:])


def _entries(path: str, folder: str, names: list[str]) -> Iterator[list[Entry]]:
    """Yield files of one directory in lists."""
    for i in range(0, len(names), CHUNK):
        yield [
            Entry(f"{path}/{name}", folder + (name if name.isascii() else printable(name)))
            for name in names[i : i + CHUNK]
        ]


def _list(
    path: str, parts: tuple[str, ...], selection: Selection, skipped: Skipped | None
) -> tuple[list[str], set[str]]:
    """Return the names of a directory that count, sorted, and which of them are directories."""
    files, folders, others = list_media(path)
    if skipped is not None and others:
        skipped.add_files(selection.taken(parts, sorted(others)))
    names = selection.taken(parts, files)
    directories = {name for name in folders if selection.enters((*parts, name))}
    if directories:
        names += directories
        names.sort()
    return names, directories


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)  # noqa: PTH116 - a Path per directory is what this file avoids
    return status.st_dev, status.st_ino
