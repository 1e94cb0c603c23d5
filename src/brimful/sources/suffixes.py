"""Which files a folder or a glob picks up."""

from __future__ import annotations

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".dib", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp")
)
"""Lower-case suffixes of images (the formats of `brimful.vision.decode`)."""

VIDEO_SUFFIXES = frozenset(
    (
        *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
        *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
    )
)
"""Lower-case suffixes of videos (containers that FFmpeg reads)."""


def suffix_of(name: str) -> str:
    """Return the lower-case suffix of a file name with its dot, "" without one."""
    dot = name.rfind(".")
    return name[dot:].lower() if dot > 0 else ""


def is_image(name: str) -> bool:
    """Tell whether a file name looks like an image."""
    return suffix_of(name) in IMAGE_SUFFIXES


def is_video(name: str) -> bool:
    """Tell whether a file name looks like a video."""
    return suffix_of(name) in VIDEO_SUFFIXES


def is_media(name: str) -> bool:
    """Tell whether a file name looks like an image or a video."""
    suffix = suffix_of(name)
    return suffix in IMAGE_SUFFIXES or suffix in VIDEO_SUFFIXES


def looked_for() -> str:
    """Return the suffixes in words, for errors about an empty source."""
    return f"looked for suffixes {' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}"
