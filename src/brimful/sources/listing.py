"""Listing: the images, the videos and the directories of one folder."""

from __future__ import annotations

import functools
import os

from brimful.native.list_folder import FolderLister, open_lister
from brimful.sources.suffixes import IMAGE_SUFFIXES, VIDEO_SUFFIXES, kinds_of


def list_media(path: str) -> tuple[list[str], list[str]]:
    """List a folder.

    Args:
        path: The folder.

    Returns:
        The names of its images and videos, hidden ones among them, sorted, and the names of its
        directories in any order. A link is what it leads to, and a file where it leads nowhere.

    Raises:
        OSError: It cannot be listed.
    """
    lister = _lister()
    return scan_media(path) if lister is None else lister.list(path)


def scan_media(path: str) -> tuple[list[str], list[str]]:
    """List a folder in Python: the same, for where nothing can be compiled."""
    files: list[str] = []
    directories: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            (directories if is_directory(entry) else files).append(entry.name)
    kinds = zip(files, kinds_of(files), strict=True)
    return sorted(name for name, kind in kinds if kind is not None), directories


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a directory or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed; reading it will say so
        return False


@functools.cache
def _lister() -> FolderLister | None:
    return open_lister(IMAGE_SUFFIXES | VIDEO_SUFFIXES)
