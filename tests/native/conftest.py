"""What the tests of C that is compiled where it runs share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play a machine without a C compiler that has compiled nothing before."""
    monkeypatch.setenv("BRIMFUL_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
