"""Which files a folder or a glob picks up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

IMAGE_SUFFIXES = frozenset(
    (
        *(".bmp", ".dib", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff"),
        *(".webp", ".avif", ".heic", ".heif", ".hif", ".j2k", ".jp2", ".pam", ".pbm", ".pfm"),
        *(".pgm", ".pnm", ".ppm"),
    )
)
"""Lower-case suffixes of images (the formats of `brimful.vision.decode`)."""

VIDEO_SUFFIXES = frozenset(
    (
        *(".264", ".265", ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv"),
        *(".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg"),
        *(".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".ts", ".vob"),
        *(".webm", ".wmv", ".y4m"),
    )
)
"""Lower-case suffixes of videos (containers that FFmpeg reads)."""


Kind = Literal["image", "video"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(IMAGE_SUFFIXES, "image"),
    **dict.fromkeys(VIDEO_SUFFIXES, "video"),
}


def kind_of(name: str) -> Kind | None:
    """Return what a file name looks like by its suffix, in any case; None when it is neither."""
    dot = name.rfind(".")
    if dot <= 0:
        return None
    suffix = name[dot:]
    kind = _KINDS.get(suffix)
    return _KINDS.get(suffix.lower()) if kind is None else kind


def kinds_of(names: Iterable[str]) -> list[Kind | None]:
    """Return what `kind_of` returns for each name; a list costs half of that."""
    known = _KINDS.get
    return [(known(n[n.rfind(".") :]) if n[:1] != "." else None) or kind_of(n) for n in names]


def is_video(name: str) -> bool:
    """Tell whether a file name looks like a video."""
    return kind_of(name) == "video"


def is_media(name: str) -> bool:
    """Tell whether a file name looks like an image or a video."""
    return kind_of(name) is not None


def looked_for() -> str:
    """Return the suffixes in words, for errors about an empty source."""
    return f"looked for suffixes {' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}"
