"""Tests that miss the shared files are counted in one line, or fail where CI requires the files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

NEEDY = """
import pytest
from shared_files import shared

@pytest.fixture
def weights():
    return shared("no-such-folder", "weights.pt")

def test_one(weights): pass
def test_other(): shared("no-such-folder")
def test_skips_for_another_reason(): pytest.skip("no GPU")
def test_that_needs_nothing(): pass
"""


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("required", [False, True])
def test_missing_files(required: bool, workers: int, tmp_path: Path) -> None:
    (tmp_path / "test_needy.py").write_text(NEEDY)
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "REQUIRE_SHARED": str(int(required))}
    command = [sys.executable, "-m", "pytest", "--numprocesses", str(workers), "--rootdir", "."]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if line.startswith("2 tests were skipped")]
    if required:
        assert done.returncode == 1, done.stdout
        assert "1 failed, 1 passed, 1 skipped, 1 error" in done.stdout
        assert "REQUIRE_SHARED=1, but no-such-folder/weights.pt is not in the folder" in done.stdout
        assert said == []
    else:
        assert done.returncode == 0, done.stdout
        assert "1 passed, 3 skipped" in done.stdout
        assert len(said) == 1
        assert "the folder `shared` beside the project lacks files" in said[0]
