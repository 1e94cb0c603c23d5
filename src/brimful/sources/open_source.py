"""open_source: the source that a path, a pattern, a dash or objects in memory stand for."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from brimful.errors import UsageError
from brimful.sources.address import CAMERA, is_address
from brimful.sources.address_source import AddressSource
from brimful.sources.entries import Done, FileOptions
from brimful.sources.file import FileSource
from brimful.sources.folder import FolderSource
from brimful.sources.list_file import ListSource
from brimful.sources.memory import MemorySource, is_image_object, is_tensor
from brimful.sources.mixed import MixedSource
from brimful.sources.paths import PathsSource
from brimful.sources.pattern import PatternSource, has_magic
from brimful.sources.source import Source
from brimful.sources.stdin import StdinSource
from brimful.vision.decode import MAX_BYTES

_KINDS = (
    "an image, a video, a folder, a glob such as 'photos/**/*.jpg', a .txt list of paths, a URL "
    "(http, https, rtsp, rtmp), the number of a camera such as 0, - for paths on standard input; "
    "from Python also an array, a tensor, encoded bytes, a Pillow image, or a list of those and of "
    "paths"
)
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")


def open_source(
    spec: Any,
    *,
    vid_stride: int = 1,
    done: Done = (),
    stdin: BinaryIO | None = None,
    max_bytes: int = MAX_BYTES,
    keeps_fetched: bool = False,
) -> Source:
    """Open what images come from.

    Args:
        spec: A path or pattern (str or Path), a URL (http, https, rtsp, rtmp), the number of a
            camera as text, "-" for paths on standard input, an array, a tensor
            or a batch of them, encoded bytes, a Pillow image, or a list or tuple of those and of
            paths; see `brimful.sources.memory.check`.
        vid_stride: Every how many-th frame of a video is taken.
        done: (key, frame) pairs to leave out: `Sink.done` of a resumed job.
        stdin: What "-" reads, `sys.stdin.buffer` by default.
        max_bytes: Largest image that is fetched over HTTP.
        keeps_fetched: See `FileOptions`.

    Returns:
        A source. With `done`, the indexes of its images have gaps where something is left out.

    Raises:
        UsageError: There is no such source, or nothing in it to read.
        MissingExtraError: The source is a video, and PyAV is not installed.
    """
    options = FileOptions(
        vid_stride=vid_stride, done=done, max_bytes=max_bytes, keeps_fetched=keeps_fetched
    )
    if isinstance(spec, str | Path):
        return _open_path(str(spec), options, stdin)
    if is_tensor(spec) and spec.ndim == 4 and len(spec) > 1:
        return MemorySource(list(spec))
    if is_image_object(spec):
        return MemorySource([spec])
    if isinstance(spec, Sequence):
        return _open_sequence(spec, options)
    raise UsageError(f"{type(spec).__name__} is no source; expected {_KINDS}")


def _open_path(spec: str, options: FileOptions, stdin: BinaryIO | None) -> Source:
    if spec == "-":
        return StdinSource(sys.stdin.buffer if stdin is None else stdin, options)
    if not spec:
        raise UsageError(f"the source is empty; expected {_KINDS}")
    if is_address(spec):
        return AddressSource(spec, options)
    if _URL.match(spec):
        raise UsageError(f"{spec} is a URL of another kind; expected {_KINDS}")
    path = _expanded(spec)
    try:
        if path.is_dir():
            return FolderSource(path, options)
        if path.exists():
            is_list = path.suffix.lower() == ".txt"
            return ListSource(path, options) if is_list else FileSource(path, options)
    except OSError as error:
        raise UsageError(f"the source {spec} cannot be read: {error.strerror}") from None
    if spec.isascii() and spec.isdecimal():
        return AddressSource(f"{CAMERA}{int(spec)}", options)
    if has_magic(spec):
        return PatternSource(str(path), options)
    raise UsageError(f"there is no source {spec!r}; expected {_KINDS}")


def _expanded(spec: str) -> Path:
    """Return a path with `~` for a home expanded, unless there is a file of that very name."""
    path = Path(spec)
    if spec.startswith("~") and not os.path.lexists(path):
        try:
            return path.expanduser()
        except RuntimeError:  # no user of that name
            pass
    return path


def _open_sequence(items: Sequence[Any], options: FileOptions) -> Source:
    if not items:
        raise UsageError(f"the list of images is empty; expected {_KINDS}")
    if all(isinstance(item, str | Path) for item in items):
        return PathsSource(items, options)
    if all(is_image_object(item) for item in items):
        return MemorySource(items)
    return MixedSource(items, options)
