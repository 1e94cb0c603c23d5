"""Announced: how long a video's container says it is, to tell when less came.

FFmpeg takes a file that was cut for a short one and says nothing. Matroska after RFC 9559 and EBML
after RFC 8794, AVI after Microsoft's RIFF and the OpenDML extensions.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, BinaryIO

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_UNKNOWN_RIFF = (0, 0xFFFFFFFF)  # of a writer that could not go back
_MAX_PARTS = 1024
_CLOCK = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d*)?)")
_SHORT = 0.95
"""Of its duration a video may lack so much that nothing is said: times are rounded."""


def announced_bytes(path: str) -> int | None:
    """Return how many bytes a container says the file has at least.

    Returns:
        None where it does not say, as most do not, or cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            start = file.read(12)
            if start.startswith(_EBML):
                return _matroska(file)
            if start.startswith(b"RIFF") and start[8:] == b"AVI ":
                return _riff(file)
    except (OSError, ValueError, IndexError):
        pass
    return None


def announced_frames(container: Any, stream: Any) -> int | None:
    """Return how many frames a stream says it has, or has at its rate; None if it does not say."""
    if stream.frames:
        return int(stream.frames)
    seconds = announced_seconds(container, stream)
    return None if seconds is None or not stream.average_rate else _frames(seconds, stream)


def announced_seconds(container: Any, stream: Any) -> float | None:
    """Return how long a stream says it is; None if it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    clock = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if clock is not None:
        return 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3])
    # Of the whole file: sound may be longer than the pictures.
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration) / 1e6
    return None


def lacks(container: Any, stream: Any, seconds: float) -> bool:
    """Tell whether a stream that came to its end is shorter than it says it is.

    Args:
        container: What it is in.
        stream: The stream.
        seconds: From the start of the stream to the start of its last frame.
    """
    expected = announced_seconds(container, stream)
    if expected is None or not stream.average_rate:
        return False
    frame = 1 / float(stream.average_rate)
    return seconds + 2 * frame < expected and seconds + frame < _SHORT * expected


def _frames(seconds: float, stream: Any) -> int:
    return round(seconds * float(stream.average_rate))


def _matroska(file: BinaryIO) -> int | None:
    at = 0
    for _ in range(_MAX_PARTS):
        file.seek(at)
        head = file.read(12)
        size, width = _number(head[4:])
        if size is None:
            return None
        end = at + 4 + width + size
        if head.startswith(_SEGMENT):
            return end
        at = end
    return None


def _number(data: bytes) -> tuple[int | None, int]:
    """Return a number as EBML has it and its bytes; None stands for an unknown size."""
    width = 9 - data[0].bit_length()
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    if width > 8 or len(data) < width:
        raise ValueError("no EBML number")
    return (None if value == (1 << 7 * width) - 1 else value), width


def _riff(file: BinaryIO) -> int | None:
    size = os.fstat(file.fileno()).st_size
    end: int = 0
    for _ in range(_MAX_PARTS):  # OpenDML: one behind the other, each of 1 GB or 2
        file.seek(end)
        head: bytes = file.read(8)
        if len(head) < 8 or head[:4] != b"RIFF":
            return end or None
        length = int.from_bytes(head[4:], "little")
        if length in _UNKNOWN_RIFF:
            return None
        end += 8 + length
        if end >= size:
            return end
    return end
