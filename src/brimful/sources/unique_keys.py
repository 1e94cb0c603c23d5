"""Entries without those that came before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from brimful.sources.skipped import Skipped
from brimful.sources.walk import Entry


def once(chunks: Iterable[list[Entry]], skipped: Skipped) -> Iterator[list[Entry]]:
    """Yield the entries whose key did not come before.

    A key names one result: with two of them a resumed job could not tell which one is done. Those
    that came before are counted in `skipped`.
    """
    seen: set[str] = set()
    for chunk in chunks:
        new = []
        for entry in chunk:
            if entry.key not in seen:
                seen.add(entry.key)
                new.append(entry)
            else:
                skipped.repeated += 1
        if new:
            yield new
