"""Entries without those that were there before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from brimful.sources.walk import Entry


def once(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield the entries whose key did not come before.

    A key names one result: with two of them a resumed job could not tell which one is done.
    """
    seen: set[str] = set()
    for entry in entries:
        if entry.key not in seen:
            seen.add(entry.key)
            yield entry
