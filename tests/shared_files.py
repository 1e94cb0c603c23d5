"""Finds the weights and photographs beside the project, and counts the tests that miss them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
MISSING = "is not in the folder `shared` beside the project"


def shared(*parts: str) -> Path:
    """Return a path of the shared weights and photographs.

    Without it the test is skipped, or fails under REQUIRE_SHARED=1: CI cannot lose these tests
    unnoticed.
    """
    path = SHARED.joinpath(*parts)
    if not path.exists():
        what = f"{'/'.join(parts)} {MISSING}"
        if os.environ.get("REQUIRE_SHARED") == "1":
            pytest.fail(f"REQUIRE_SHARED=1, but {what}")
        pytest.skip(what)
    return path


def missing_line(skipped: list[Any]) -> str | None:
    """Return one line about the tests that were skipped without shared files, or None.

    Args:
        skipped: The reports of all skipped tests.
    """
    count = sum(MISSING in str(report.longrepr) for report in skipped)
    if not count:
        return None
    tests = "1 test was" if count == 1 else f"{count} tests were"
    return (
        f"{tests} skipped: the folder `shared` beside the project lacks files "
        "(REQUIRE_SHARED=1 makes this a failure)"
    )
