"""Skipped: what a source left out, so that nothing is lost without a word."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable

_NAMED = 6
"""Suffixes that are named; a folder may hold hundreds."""


class Skipped:
    """What a source left out, counted.

    Attributes:
        files: How many files of each lower-case suffix are no images or videos by their names.
        repeated: How many entries have the key of one before.
    """

    def __init__(self) -> None:
        """Start with nothing."""
        self.files: Counter[str] = Counter()
        self.repeated = 0

    def clear(self) -> None:
        """Start anew."""
        self.files.clear()
        self.repeated = 0

    def add_files(self, names: Iterable[str]) -> None:
        """Count files."""
        self.files.update(os.path.splitext(name)[1].lower() for name in names)  # noqa: PTH122

    def __str__(self) -> str:
        """Say what was left out, in one line without an end; "" for nothing."""
        said = []
        if self.files:
            count = self.files.total()
            kinds = [
                f"{n:,} {suffix or 'without a suffix'}"
                for suffix, n in self.files.most_common(_NAMED)
            ]
            if len(self.files) > _NAMED:
                kinds.append(f"{len(self.files) - _NAMED} more suffixes")
            names = "file that is" if count == 1 else "files that are"
            said.append(f"{count:,} {names} no image or video by name ({', '.join(kinds)})")
        if self.repeated:
            said.append(f"{self.repeated:,} named before")
        return f"skipped: {'; '.join(said)}" if said else ""
