"""A glob pattern: the images and videos that it names, `**` for any depth."""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from brimful.errors import UsageError
from brimful.sources.entries import EntriesSource, FileOptions
from brimful.sources.suffixes import is_media, looked_for
from brimful.sources.walk import Entry, holds_any, walk

_MAGIC = frozenset("*?[")


class PatternSource(EntriesSource):
    """Files with a known suffix that match a pattern, sorted by path components.

    A component without a leading dot matches no hidden name, as in a shell. The key is the path
    below the part of the pattern that holds no wildcard.
    """

    def __init__(self, pattern: str, options: FileOptions) -> None:
        """Take a pattern.

        Raises:
            UsageError: Nothing matches it.
        """
        super().__init__(options)
        self._root, self._selection = split_pattern(pattern)
        if not Path(self._root).is_dir() or not holds_any(self._root, self._selection):
            raise UsageError(f"no images found for the pattern {pattern!r}; {looked_for()}")

    def entries(self) -> Iterator[list[Entry]]:
        """Yield the files."""
        self.skipped.clear()
        return walk(self._root, self._selection, self.skipped)


class Matching:
    """The selection of a pattern, given as its components below the root."""

    def __init__(self, components: tuple[str, ...]) -> None:
        """Split directories from the file pattern; a trailing `**` takes every file."""
        last = components[-1]
        self._directories = components if last == "**" else components[:-1]
        self._file = "*" if last == "**" else last

    def enters(self, directory: tuple[str, ...]) -> bool:
        """Enter what may still match with more components below it."""
        return _matches(directory, self._directories, prefix=True)

    def takes(self, directory: tuple[str, ...], name: str) -> bool:
        """Take a file whose name and directory match."""
        return (
            _component(name, self._file)
            and is_media(name)
            and _matches(directory, self._directories, prefix=False)
        )

    def taken(self, directory: tuple[str, ...], names: list[str]) -> list[str]:
        """Take those whose name and directory match, all at once."""
        if not _matches(directory, self._directories, prefix=False):
            return []
        return [name for name in names if _component(name, self._file)]


def has_magic(path: str) -> bool:
    """Tell whether a path holds a wildcard."""
    return not _MAGIC.isdisjoint(path)


def split_pattern(pattern: str) -> tuple[str, Matching]:
    """Return the folder above the first wildcard, and what to select below it."""
    components = [part for part in pattern.split("/") if part not in ("", ".")]
    first = next(i for i, part in enumerate(components) if has_magic(part))
    anchor = "/" if pattern.startswith("/") else ""
    return anchor + "/".join(components[:first]) or ".", Matching(tuple(components[first:]))


def _matches(parts: tuple[str, ...], patterns: tuple[str, ...], *, prefix: bool) -> bool:
    """Match path components; with `prefix`, patterns may be left over for what is below."""
    if not parts:
        return prefix or all(pattern == "**" for pattern in patterns)
    if not patterns:
        return False
    if patterns[0] == "**":
        return _matches(parts, patterns[1:], prefix=prefix) or (
            not parts[0].startswith(".") and _matches(parts[1:], patterns, prefix=prefix)
        )
    return _component(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:], prefix=prefix)


def _component(name: str, pattern: str) -> bool:
    if name.startswith(".") and not pattern.startswith("."):
        return False
    return fnmatchcase(name, pattern)
