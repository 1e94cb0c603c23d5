"""Content: what a file is whose name does not tell."""

from __future__ import annotations

import os
import stat

from brimful.extras import installed
from brimful.sources.frames import holds_video
from brimful.sources.suffixes import Kind
from brimful.vision.header import read_header

_START = 64  # bytes
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe is not waited for


def kind_of_content(path: str) -> Kind | None:
    """Return whether a file is an image or a video, None where it is neither or cannot be read.

    Only files that somebody named are looked into: a folder is taken by suffixes.
    """
    try:
        descriptor = os.open(path, _READ)
    except (OSError, ValueError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        start = os.pread(descriptor, _START, 0)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    if not start:
        return None
    if read_header(start) is not None:
        return "image"
    return "video" if installed("av") and holds_video(path) else None
