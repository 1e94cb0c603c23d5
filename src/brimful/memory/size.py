"""Sizes in bytes as people write them: `2GiB`, `512MB`."""

from __future__ import annotations

import re

from brimful.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]I?|)B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """Read a size such as `2GiB`, `1.5G`, `800MB` or `1048576`.

    Raises:
        UsageError: It is none, or not positive.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise UsageError(f"{text!r} is no size; expected a number with KiB, MiB, GiB, MB or GB")
    return size


def show_bytes(size: float) -> str:
    """Return a size for people, in MiB or GiB."""
    if abs(size) < 2**30:
        return f"{size / 2**20:.0f} MiB"
    return f"{size / 2**30:.2f} GiB"
