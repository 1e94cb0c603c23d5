"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_OURS = re.compile(r"\.brimful-[0-9a-f]{16}")


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file beside `path`, and move it there when the block ends without an error.

    A symbolic link at `path` is replaced, not followed.

    Args:
        path: Where it appears.
        durable: Bring the data to the disk before the name: after a power cut there is the old
            file or the new one. Without it that holds for the end of the process alone, and
            nothing waits for the disk.
    """
    temporary = unused(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o666), "wb") as file:  # noqa: PTH123 - a descriptor
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        sync_folder(path.parent)


def unused(path: Path) -> Path:
    """Return a name beside `path` that nobody else has: `<name>.brimful-<random>`."""
    return path.with_name(f"{path.name}.brimful-{secrets.token_hex(8)}")


def remove_unused(path: Path) -> None:
    """Remove what a killed process left under names that `unused` made for `path`."""
    for name in os.listdir(path.parent):  # noqa: PTH208 - a Path a name is what this avoids
        if name.startswith(path.name) and _OURS.fullmatch(name, len(path.name)):
            left = path.with_name(name)
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                with suppress(OSError):
                    left.unlink()


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
