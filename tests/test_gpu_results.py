"""Says how old the committed results of the GPU tests are, and that saying so is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from gpu_report import GPU_FOLDERS, RESULTS, ROOT, GpuReport, staleness

FOLDERS = ("gpu", "kernels")


@pytest.mark.filterwarnings("always::UserWarning")  # in the summary, and no failure
def test_the_results_of_the_gpu_tests_are_current() -> None:
    """Warns, and does not fail: whoever changes a kernel may have no GPU."""
    if not RESULTS.exists():
        pytest.skip(f"{RESULTS.relative_to(ROOT)} is not there: `make test-gpu` writes it")
    results = json.loads(RESULTS.read_text())
    assert results["passed"] == sum(row["passed"] for row in results["files"].values()) > 0
    said = staleness(ROOT, results, GPU_FOLDERS)
    if said is not None:
        warnings.warn(said, stacklevel=1)


@pytest.mark.parametrize("folder", GPU_FOLDERS)
def test_the_folders_are_where_the_kernels_are(folder: str) -> None:
    """Renamed folders must be renamed in `gpu_report.py`, too."""
    assert list((ROOT / folder).glob("*.py"))


def git(root: Path, *arguments: str) -> str:
    """Run git without the settings of this machine."""
    identity = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    for role in ("AUTHOR", "COMMITTER"):
        identity |= {f"GIT_{role}_NAME": "tests", f"GIT_{role}_EMAIL": "tests@example.com"}
    done = subprocess.run(
        ["git", *arguments],
        cwd=root,
        env={**os.environ, **identity},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(root: Path, *names: str) -> str:
    """Change files, commit them, and return the commit."""
    for name in names:
        path = root / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(path.read_text() + "." if path.exists() else "")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "change")
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, list[str]]:
    """A project with five commits: the second, third and fifth change what a GPU runs."""
    root = tmp_path / "project"
    root.mkdir()
    git(root, "init", "--quiet")
    changes = (
        ("README",),
        ("gpu/lane",),
        ("gpu/lane", "kernels/conv"),
        ("README",),
        ("kernels/a",),
    )
    return root, [commit(root, *names) for names in changes]


def results_at(commit: str | None, failed: int = 0) -> dict[str, Any]:
    return {"commit": commit, "failed": failed}


@pytest.mark.parametrize(
    ("at", "behind"),
    [(4, ""), (3, "1 commit"), (2, "1 commit"), (1, "2 commits"), (0, "3 commits")],
)
def test_commits_that_change_the_gpus_folders_are_counted(
    history: tuple[Path, list[str]], at: int, behind: str
) -> None:
    root, commits = history
    said = staleness(root, results_at(commits[at]), FOLDERS)
    if not behind:
        assert said is None
    else:
        assert said is not None
        assert f" {behind} behind {commits[4][:12]}" in said


def test_commits_beside_the_gpus_folders_do_not_count(history: tuple[Path, list[str]]) -> None:
    root, commits = history
    commit(root, "README", "other/file")
    assert staleness(root, results_at(commits[4]), FOLDERS) is None


def test_tests_that_failed_are_said(history: tuple[Path, list[str]]) -> None:
    root, commits = history
    assert "2 GPU tests failed" in (
        staleness(root, results_at(commits[4], failed=2), FOLDERS) or ""
    )


def test_a_shallow_clone_says_so(history: tuple[Path, list[str]], tmp_path: Path) -> None:
    root, commits = history
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth", "1", root.as_uri(), str(clone))
    assert "this clone is shallow" in (staleness(clone, results_at(commits[2]), FOLDERS) or "")
    assert staleness(clone, results_at(commits[4]), FOLDERS) is None


def test_a_commit_of_another_history_says_so(history: tuple[Path, list[str]]) -> None:
    root, _ = history
    assert "of another history" in (staleness(root, results_at("0" * 40), FOLDERS) or "")
    assert "name no commit" in (staleness(root, results_at(None), FOLDERS) or "")


def test_without_a_checkout_or_git_there_is_nothing_to_compare(
    history: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, commits = history
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    plain = tmp_path / "plain"
    plain.mkdir()
    assert "no git history" in (staleness(plain, results_at(commits[4]), FOLDERS) or "")
    monkeypatch.setenv("PATH", str(plain))
    assert "no git history" in (staleness(root, results_at(commits[4]), FOLDERS) or "")


OUTCOMES = """
import pytest

def test_passes(): pass
def test_fails(): assert False
def test_skips(): pytest.skip("not today")
@pytest.fixture
def broken():
    yield
    raise RuntimeError("teardown")
def test_passes_and_fails_in_its_teardown(broken): pass
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_the_report_counts_by_file(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a card that is played, in a session of its own."""
    tests, report = tmp_path / "tests", tmp_path / "out" / "report.json"
    tests.mkdir()
    (tests / "test_outcomes.py").write_text(OUTCOMES)
    (tests / "test_more.py").write_text("def test_passes(): pass\n")
    (tests / "test_torn.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "played.py").write_text(
        "import gpu_report\ngpu_report.card_name = lambda: 'card'\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), str(ROOT / "tests"))))
    monkeypatch.setenv("BRIMFUL_COMMIT", "abc")
    command = [sys.executable, "-m", "pytest", "tests", f"--gpu-report={report}"]
    plugins = ["-p", "gpu_report", "-p", "played", "--numprocesses", str(workers)]
    options = ["--continue-on-collection-errors", "--rootdir", str(tmp_path), *plugins]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    assert f"{report} was written" in done.stdout
    found = json.loads(report.read_text())
    assert (found["commit"], found["card"]) == ("abc", "card")
    assert (found["passed"], found["skipped"], found["failed"]) == (2, 1, 3)
    rows = {name: (r["passed"], r["skipped"], r["failed"]) for name, r in found["files"].items()}
    assert rows == {
        "tests/test_outcomes.py": (1, 1, 2),
        "tests/test_more.py": (1, 0, 0),
        "tests/test_torn.py": (0, 0, 1),
    }
    assert found["seconds"] > 0
    assert not any("gpu-report" in argument for argument in found["arguments"])


def test_no_card_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of a run without a GPU must not pass for those of a GPU."""
    monkeypatch.setattr("gpu_report.card_name", lambda: None)
    report = GpuReport(tmp_path / "report.json", [])
    report.pytest_sessionfinish(None)  # type: ignore[arg-type]
    assert not report.path.exists()
    assert "no CUDA device" in report.said
