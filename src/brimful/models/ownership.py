"""Who may write to the artifact cache: what somebody else could have put there is not used."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

from brimful.errors import UsageError


def check_root(root: Path, *, runs: bool) -> None:
    """Refuse a cache in which others may put artifacts.

    Args:
        root: The folder of the cache, which exists.
        runs: An artifact of it is going to be run as code.

    Raises:
        UsageError: Saying who may write there.
    """
    state = root.stat()
    if runs and state.st_uid not in (os.geteuid(), 0):
        raise _foreign(root, state)
    if _others_may_write(state) and not state.st_mode & stat.S_ISVTX:
        raise UsageError(
            f"the artifact cache {root} may be written by others (mode {_mode(state)}), who could "
            f"put a model or code there. Take that away with chmod go-w {root}, or point "
            "BRIMFUL_CACHE at a folder of your own"
        )


def check_artifact(root: Path, folder: Path, *, runs: bool) -> None:
    """Refuse an artifact that others have written or may write.

    Data may be that of the cache's owner, whose cache was chosen; code may not.

    Args:
        root: The folder of the cache.
        folder: The artifact's.
        runs: It is going to be run as code.

    Raises:
        UsageError: Saying whose it is.
    """
    trusted = {os.geteuid(), 0} | (set() if runs else {root.stat().st_uid})
    for path in (os.fspath(folder), *_below(folder)):
        state = os.lstat(path)
        if state.st_uid not in trusted:
            raise _foreign(path, state)
        if stat.S_ISLNK(state.st_mode) or _others_may_write(state):
            raise UsageError(
                f"{path} in the artifact cache may be written by others (mode {_mode(state)}). "
                f"Remove {folder}, and it is made again"
            )


def _below(folder: Path) -> Iterator[str]:
    """Yield what is in a folder; links are not followed."""
    for entry in os.scandir(folder):
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))


def _others_may_write(state: os.stat_result) -> bool:
    if state.st_mode & stat.S_IWOTH:
        return True
    return bool(state.st_mode & stat.S_IWGRP) and not _is_private(state.st_gid)


def _is_private(group: int) -> bool:
    """Tell whether a group is this user's own, as many systems give everybody one."""
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_name == user.pw_name and set(found.gr_mem) <= {user.pw_name}


def _foreign(path: str | Path, state: os.stat_result) -> UsageError:
    return UsageError(
        f"{path} belongs to user {state.st_uid}, and this process is user {os.geteuid()}: what "
        "others have put into the artifact cache is not used. Point BRIMFUL_CACHE at a folder of "
        "your own"
    )


def _mode(state: os.stat_result) -> str:
    return f"{stat.S_IMODE(state.st_mode):04o}"
