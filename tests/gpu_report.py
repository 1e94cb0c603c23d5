"""Writes the results of the GPU tests to a file, and tells how old such a file is.

CI has no GPU. `make test-gpu`, or `python -m pytest --gpu-report=PATH` on any machine with a GPU,
writes what passed there and at which commit. The normal suite reads the committed file and warns
when the code for GPUs has changed since.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "gpu_tests.json"

GPU_FOLDERS = ("src/brimful/cuda", "src/brimful/runtimes/cuda", "src/brimful/vision/cuda")
"""The code that only a GPU can test: a change here makes the results old."""

COMMIT_VARIABLE = "BRIMFUL_COMMIT"
"""Names the tested commit on a machine that has a copy of the files and no git history."""

OUTCOMES = ("passed", "skipped", "failed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --gpu-report."""
    parser.addoption(
        "--gpu-report",
        metavar="PATH",
        help="write the results of the tests on a GPU to this JSON file",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Count outcomes where a report is asked for; xdist's workers tell the main process."""
    path = config.getoption("--gpu-report")
    if path is not None and not hasattr(config, "workerinput"):
        given = [str(argument) for argument in config.invocation_params.args]
        arguments = [a for a in given if a != path and not a.startswith("--gpu-report")]
        config.pluginmanager.register(GpuReport(Path(path), arguments), "gpu-report")


class GpuReport:
    """Counts the outcomes of tests by file, and writes them at the end of a session."""

    def __init__(self, path: Path, arguments: list[str]) -> None:
        self.path = path
        self.arguments = arguments
        self.said = ""
        self._outcomes: dict[str, str] = {}
        self._seconds: dict[str, float] = defaultdict(float)
        self._started = time.monotonic()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's worst outcome over setup, call and teardown, and its time."""
        self._seconds[report.nodeid.partition("::")[0]] += report.duration
        before = self._outcomes.get(report.nodeid, "passed")
        worst = max(before, report.outcome, key=OUTCOMES.index)
        self._outcomes[report.nodeid] = worst

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that cannot be imported counts as one failure, one skipped whole as one skip."""
        if report.outcome != "passed":
            self._outcomes[report.nodeid] = report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the file, if there is a card that the results are of."""
        card = card_name()
        if card is None:
            self.said = f"{self.path} was not written: PyTorch finds no CUDA device"
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.results(card), indent=2) + "\n")
        self.said = f"{self.path} was written"

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say whether the file was written."""
        terminalreporter.write_line(f"GPU report: {self.said}")

    def results(self, card: str) -> dict[str, Any]:
        """Return what the file holds."""
        files: dict[str, dict[str, Any]] = {}
        for node, outcome in self._outcomes.items():
            name = node.partition("::")[0]
            row = files.setdefault(name, {**dict.fromkeys(OUTCOMES, 0), "seconds": 0.0})
            row[outcome] += 1
            row["seconds"] = round(self._seconds[name], 1)
        return {
            "commit": os.environ.get(COMMIT_VARIABLE) or head_commit(ROOT),
            "changed_files": changed_files(ROOT),
            "card": card,
            "arguments": self.arguments,
            **{name: sum(row[name] for row in files.values()) for name in OUTCOMES},
            "seconds": round(time.monotonic() - self._started, 1),
            "files": dict(sorted(files.items())),
        }


def card_name() -> str | None:
    """Return the name of the first CUDA device, or None without one."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name(0))


def git(root: Path, *arguments: str) -> str | None:
    """Return what a git command prints, or None where it fails or there is no git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def head_commit(root: Path) -> str | None:
    """Return the commit that is checked out, or None without a history."""
    return git(root, "rev-parse", "HEAD")


def changed_files(root: Path) -> list[str] | None:
    """Return the tracked files that differ from the commit, or None without a history."""
    changed = git(root, "diff", "--name-only", "HEAD")
    return None if changed is None else changed.splitlines()


def staleness(root: Path, results: dict[str, Any], folders: tuple[str, ...]) -> str | None:
    """Return what is to be said of results of the GPU tests, or None if they are current.

    Args:
        root: The project's folder, which need not be a git checkout.
        results: What the file of results holds.
        folders: The folders whose changes make results old, relative to `root`.
    """
    commit = results.get("commit")
    said = []
    if results.get("failed"):
        said.append(f"{results['failed']} GPU tests failed at commit {commit}")
    last = git(root, "log", "-1", "--format=%H", "--", *folders)
    if not commit:
        said.append("the results of the GPU tests name no commit")
    elif not last:
        said.append("there is no git history to compare the results of the GPU tests with")
    elif git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        shallow = git(root, "rev-parse", "--is-shallow-repository") == "true"
        why = "this clone is shallow" if shallow else "it is of another history"
        said.append(f"commit {commit} of the GPU tests' results is not in this clone: {why}")
    else:
        behind = git(root, "rev-list", "--count", f"{commit}..HEAD", "--", *folders)
        if behind != "0":
            commits = "1 commit" if behind == "1" else f"{behind} commits"
            said.append(
                f"the results of the GPU tests are {commits} behind {last[:12]}, the last "
                f"one that changed {' or '.join(folders)}: run `make test-gpu`"
            )
    return "; ".join(said) or None
