"""Names: the file that the picture or the crop of an image goes to.

Two keys never share a name, and a name is known from its key alone, so an interrupted job finds
its pictures again and nothing is remembered for each image. A picture has its image's own name
where that is of a kind that can be written. Otherwise an ending is added, not exchanged:
`clip.avi` becomes `clip.avi.mp4` and leaves `clip.mp4` to a video of that name.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import PurePosixPath

from brimful.pictures.encode import SUFFIXES

CROPS = "crops"
"""The folder of crops."""

VIDEO = ".mp4"

_LONGEST = 180  # bytes of a name; file systems take 255, and endings are added
_UNDERSCORES = re.compile("_+")


def image_name(key: str, *, crops: bool = False) -> PurePosixPath:
    """Return the name of an image's picture, relative to the folder of pictures.

    Args:
        key: Of the image.
        crops: Whether there are crops in that folder: an image in a folder `crops` makes way.
    """
    return _named(key, SUFFIXES, ".jpg", crops=crops)


def video_name(key: str, *, crops: bool = False) -> PurePosixPath:
    """Return the name of a video's picture, an MP4; see `image_name`."""
    return _named(key, frozenset((VIDEO,)), VIDEO, crops=crops)


def crop_name(
    key: str, frame: int | None, number: int, class_name: str, class_id: int
) -> PurePosixPath:
    """Return the name of the crop of a detection, below the folder of its class.

    Args:
        key: Of the image or video.
        frame: Of the video; its crops are in a folder of its name.
        number: Position of the detection in its image.
        class_name: Its class; what no folder can be called gets the number of the class.
        class_id: That number.
    """
    folder = _class_folder(class_name, class_id)
    if frame is not None:
        return folder / video_name(key) / f"{frame:06}-{number}.jpg"
    image = image_name(key)
    return folder / image.with_name(f"{image.stem}-{number}{image.suffix}")


def _named(key: str, kinds: frozenset[str], ending: str, *, crops: bool) -> PurePosixPath:
    *folders, name = _components(key)
    if crops and folders and folders[0].rstrip("_") == CROPS:
        folders[0] += "_"
    return PurePosixPath(*folders, name + ("" if _is_kept(name, kinds, ending) else ending))


def _is_kept(name: str, kinds: frozenset[str], ending: str) -> bool:
    """Whether a name stays: its kind can be written, and no other name becomes this one."""
    stem, suffix = PurePosixPath(name).stem, PurePosixPath(name).suffix
    if suffix.lower() not in kinds:
        return False
    return suffix != ending or not PurePosixPath(stem).suffix or _is_kept(stem, kinds, ending)


def _components(key: str) -> list[str]:
    """Return the parts of a key as names that stay inside the folder, different for each path."""
    root = ["_"] if key.startswith("/") else []
    parts = [part for part in key.split("/") if part not in ("", ".")]
    return root + [_inside(part) for part in parts] or ["image"]


def _inside(part: str) -> str:
    if part == "..":
        return "__"
    # `_` and `__` stand for `/` and `..`
    return _shortened(f"{part}__" if _UNDERSCORES.fullmatch(part) else part)


def _shortened(name: str) -> str:
    data = name.encode("utf-8", "surrogateescape")
    if len(data) <= _LONGEST and "\0" not in name:
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if suffix.isascii() and len(suffix) <= 8 else ""
    start = data[: _LONGEST - 40].decode(errors="ignore").replace("\0", "_")
    return f"{start}-{blake2b(data, digest_size=8).hexdigest()}{suffix}"


def _class_folder(name: str, class_id: int) -> PurePosixPath:
    safe = name.replace("/", "_").replace("\0", "_").strip()
    if safe != name or safe in ("", ".", "..") or len(safe.encode()) > _LONGEST:
        safe = f"{_shortened(safe).strip('.') or 'class'}-{class_id}"
    return PurePosixPath(CROPS, safe)
