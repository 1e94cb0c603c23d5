"""expected_images: how many images a source has, as far as that is quickly known."""

from __future__ import annotations

from brimful.sources.address import Address
from brimful.sources.entries import EntriesSource
from brimful.sources.open_source import open_source
from brimful.sources.suffixes import kind_of
from brimful.sources.walk import Entry

ENOUGH = 10_000
"""Nobody needs to know how many there are beyond."""


def expected_images(spec: str) -> int | None:
    """Return how many images there are, at most about `ENOUGH`; None where that is not known.

    Videos and standard input are not looked into.

    Args:
        spec: As for `open_source`.

    Raises:
        UsageError: There is no such source, or nothing in it to read.
    """
    if spec == "-":
        return None
    source = open_source(spec)
    try:
        if not isinstance(source, EntriesSource):
            return len(source)
        count = 0
        for entries in source.entries():
            if any(_is_video(entry) for entry in entries):
                return None
            count += len(entries)
            if count >= ENOUGH:
                break
        return count
    finally:
        source.close()


def _is_video(entry: Entry) -> bool:
    """Tell whether an entry is a video, as far as that is known without asking a server."""
    kind = entry.kind if isinstance(entry, Address) else kind_of(entry.path)
    return kind == "video"
