"""Addresses: sources that are no files, which are URLs and cameras.

Only a source that is itself an address is one. What lists and standard input name is a file, so
that nobody has anything fetched by writing a line into them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from brimful.sources.key import printable
from brimful.sources.suffixes import Kind, kind_of
from brimful.sources.walk import Entry

CAMERA = "/dev/video"

_URL = re.compile(r"(https?|rtsps?|rtmps?)://(?:[^/?#]*@)?([^?#]*)", re.IGNORECASE)
_CAMERA = re.compile(re.escape(CAMERA) + r"\d+")


@dataclass(slots=True)
class Address(Entry):
    """An entry that is a URL, or the device of a camera.

    `path` is the address, with its user and password where it has them; `key` has neither.
    """

    @property
    def kind(self) -> Kind | None:
        """What is behind it, None where only the server can tell."""
        found = _URL.match(self.path)
        if found is None or not found[1].lower().startswith("http"):
            return "video"
        return kind_of(found[2].rpartition("/")[2])


def is_address(path: str) -> bool:
    """Tell whether a source's name is a URL that can be read, or the device of a camera."""
    return _URL.match(path) is not None or _CAMERA.fullmatch(path) is not None


def without_password(address: str) -> str:
    """Return an address without user and password, to be shown."""
    found = _URL.match(address)
    if found is None:
        return address
    return f"{found[1]}://{found[2]}{address[found.end() :]}"


def address_of(path: str) -> Address:
    """Return the entry of an address; as that of a file, its key is the last name.

    Query and fragment are left out of it.
    """
    shown = without_password(path).partition("://")[2] or path
    parts = [part for part in re.split(r"[?#]", shown)[0].split("/") if part]
    return Address(path, printable(parts[-1] if parts else "stream"))


def cameras() -> list[str]:
    """Return the devices of the cameras there are."""
    names = sorted(name for name in os.listdir("/dev") if name.startswith("video"))  # noqa: PTH208
    return [f"/dev/{name}" for name in names]
