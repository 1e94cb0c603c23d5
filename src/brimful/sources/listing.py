"""Listing: the images, the videos and the directories of one folder."""

from __future__ import annotations

import os

from brimful.sources.suffixes import kinds_of


def list_media(path: str) -> tuple[list[str], list[str], list[str]]:
    """List a folder.

    Args:
        path: The folder.

    Returns:
        The names of its images and videos, hidden ones among them, sorted, the names of its
        directories, and those of all other files, in any order. A link is what it leads to, and a
        file where it leads nowhere.

    Raises:
        OSError: It cannot be listed.
    """
    files: list[str] = []
    directories: list[str] = []
    with os.scandir(path) as entries:
        for entry in entries:
            (directories if is_directory(entry) else files).append(entry.name)
    media: list[str] = []
    others: list[str] = []
    for name, kind in zip(files, kinds_of(files), strict=True):
        (others if kind is None else media).append(name)
    media.sort()
    return media, directories, others


def is_directory(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a directory or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that cannot be followed; reading it will say so
        return False
