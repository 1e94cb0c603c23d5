"""EncodedResults: results that are JSON lines already."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncodedResults:
    """The results of consecutive images, encoded by the process that made them.

    Attributes:
        count: Images.
        failures: Images among them that have an error.
        found: Detections in all of them.
        lines: Their JSON lines in order, as `encode_jsonl` writes them.
    """

    count: int
    failures: int
    found: int
    lines: bytes
