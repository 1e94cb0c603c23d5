"""The folder that pictures go to."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from brimful.errors import UsageError
from brimful.sources.address import is_address
from brimful.sources.pattern import has_magic, split_pattern
from brimful.sources.walk import AllMedia, Selection

_OURS = re.compile(r".*\.brimful-[0-9a-f]{16}")  # what `brimful.sinks.atomic.unused` makes


def open_folder(
    folder: Path | None,
    root: Path,
    name: str = "predict",
    *,
    source: str,
    resume: bool,
    overwrite: bool,
) -> Path:
    """Create the folder of pictures, or take one that is there.

    Nothing in it is ever removed, but for files that an interrupted job left half written.

    Args:
        folder: The folder; None stands for `<root>/<name>`, `<name>2` and so on, the first that
            does not exist.
        root: Folder of new folders.
        name: What new folders are called.
        source: Where images come from: their folder or pattern must not take pictures in.
        resume: A job goes on: its pictures are in the folder.
        overwrite: Pictures may replace files of their names.

    Returns:
        The folder, absolute and with links resolved.

    Raises:
        UsageError: It cannot be created, it holds files and neither of both is asked for, or its
            pictures would be images of the source.
    """
    planned = (folder or root).resolve()
    if _takes_in(source, planned):
        raise UsageError(
            f"pictures in {planned} would be read as images of the source {source}; give a "
            "--save-dir outside of it"
        )
    try:
        if folder is None:
            return _new_folder(root, name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        folder = folder.resolve()
        if resume:
            _remove_half_written(folder)
        elif not overwrite and next(folder.iterdir(), None) is not None:
            raise UsageError(
                f"{folder} is not empty; give another --save-dir, or --overwrite, which replaces "
                "pictures of the same names and removes nothing else"
            )
    except OSError as error:
        where = error.filename if folder is None else folder
        reason = "it is a file" if isinstance(error, FileExistsError) else error.strerror
        raise UsageError(f"the folder {where} cannot be written: {reason}") from None
    return folder


def lies_in(folder: Path, file: str) -> bool:
    """Tell whether a file lies in a folder, links of its path resolved.

    Args:
        folder: The folder, resolved.
        file: Its path.
    """
    return Path(file).resolve().is_relative_to(folder)


def _takes_in(source: str, folder: Path) -> bool:
    """Tell whether a source that is a folder or a pattern reads what is in some folder."""
    if is_address(source):
        return False
    path = Path(source)
    selection: Selection
    if path.is_dir():
        selection = AllMedia()
    elif has_magic(source) and not path.exists():
        root, selection = split_pattern(source)
        path = Path(root)
    else:
        return False
    try:
        parts = folder.relative_to(path.resolve()).parts
    except ValueError:
        return False
    return all(selection.enters(parts[:depth]) for depth in range(len(parts) + 1))


def _new_folder(root: Path, name: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = root / (name if number == 1 else f"{name}{number}")
        try:
            folder.mkdir()  # whoever creates it has it
        except FileExistsError:
            continue
        return folder
    raise AssertionError("there is always a next number")


def _remove_half_written(folder: Path) -> None:
    for path in folder.rglob("*.brimful-*"):
        if _OURS.fullmatch(path.name) and path.is_file() and not path.is_symlink():
            path.unlink(missing_ok=True)
