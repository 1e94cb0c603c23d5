"""Listing: the images, the videos and the directories of one folder."""

from __future__ import annotations

import os

from brimful.sources.suffixes import kinds_of


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
