"""EncodedResults: results that are JSON lines already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brimful.detections import Detections
from brimful.native.json_lines import open_encoder


@dataclass(frozen=True, slots=True)
class EncodedResults:
    """The results of consecutive images as JSON lines.

    Attributes:
        count: Images.
        failures: Images among them that have an error, of whatever kind.
        found: Detections in all of them.
        lines: Their JSON lines in order, as `encode_jsonl` writes them.
    """

    count: int
    failures: int
    found: int
    lines: bytes


def encode_results(results: Sequence[Detections]) -> EncodedResults:
    """Encode the results of consecutive images."""
    return EncodedResults(
        count=len(results),
        failures=count_failures(results),
        found=sum(map(len, results)),
        lines=open_encoder()(results),
    )


def count_failures(results: Sequence[Detections]) -> int:
    """Return how many of some images have an error, of whatever kind."""
    return sum(result.error is not None for result in results)
