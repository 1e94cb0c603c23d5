"""Standard streams that are full or closed, and what is said on them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cli_kit import (
    BRIMFUL,
    PATIENCE_S,
    check_complete,
    environment,
    level_of,
    predict,
    rows,
    write_images,
)

from brimful.cli.main import run
from brimful.sources.folder import FolderSource

pytestmark = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")  # noqa: PTH110


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return folder, write_images(folder, 12)


def shell(redirection: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """Run brimful with a shell's redirection."""
    command = shlex.join([*BRIMFUL, *map(str, arguments)])
    return subprocess.run(
        ["sh", "-c", f"{command} {redirection}"],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def job(folder: Path) -> list[object]:
    return ["predict", "--runtime", "debug", "--source", folder]


def test_a_full_standard_output_is_an_error_and_no_traceback(photos):
    done = shell("> /dev/full", *job(photos[0]))
    assert done.returncode == 1
    said = done.stderr.decode()
    assert "standard output cannot be written: No space left on device" in said
    assert "Traceback" not in said and "ignored" not in said


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["info"], ["predict", "--help"]])
def test_so_it_is_of_everything_that_prints(arguments):
    done = shell("> /dev/full", *arguments)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "brimful: the output cannot be written: No space left on device\n"
    )


def test_a_closed_standard_output_is_a_usage_error(photos):
    done = shell(">&-", *job(photos[0]))
    assert done.returncode == 2
    assert "standard output is closed; give a file with --output" in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "2>/dev/full", ">&- 2>&- <&-"])
def test_a_job_with_an_output_needs_no_stream(photos, tmp_path, redirection):
    folder, names = photos
    output = tmp_path / "out.jsonl"
    done = shell(redirection, *job(folder), "--output", output)
    assert done.returncode == 0
    check_complete(output, names)
    assert b"Traceback" not in done.stderr + done.stdout


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_an_error_that_nobody_reads_is_an_exit_code(redirection):
    done = shell(redirection, "predict", "--runtime", "debug", "--source", "/nowhere/at/all")
    assert (done.returncode, done.stdout) == (2, b"")


def test_a_source_that_is_wrong_leaves_no_job_behind(photos, tmp_path):
    output = tmp_path / "out.jsonl"
    done = predict("--source", "/nowhere/at/all", "--output", output)
    assert done.returncode == 2 and list(tmp_path.iterdir()) == []
    assert predict("--source", photos[0], "--output", output).returncode == 0


def test_what_is_skipped_is_in_the_summary(tmp_path):
    names = write_images(tmp_path / "photos", 2)
    for name in ("a.dng", "b.DNG", "c.txt"):
        (tmp_path / "photos" / name).touch()
    done = predict("--source", tmp_path / "photos")
    assert "skipped: 3 files that are no image or video by name (2 .dng, 1 .txt)" in (
        done.stderr.decode()
    )
    (tmp_path / "list.txt").write_text(f"photos/{names[0]}\nphotos/{names[0]}\n")
    done = predict("--source", tmp_path / "list.txt")
    assert "skipped: 1 named before" in done.stderr.decode()
    done = predict("--source", f"{tmp_path}/photos/*.png")
    assert done.returncode == 0 and "skipped" not in done.stderr.decode()
    done = predict("--source", tmp_path / "photos", "--quiet")
    assert done.stderr == b""
    assert [level_of(row) for row in rows(done.stdout)] == [0, 1]


@pytest.mark.parametrize("quiet", [True, False])
def test_a_quiet_job_lists_its_source_once(photos, tmp_path, monkeypatch, quiet):
    asked = []
    monkeypatch.setattr(FolderSource, "__len__", lambda source: asked.append(1) or 12)
    arguments = [*job(photos[0]), "--output", tmp_path / "out.jsonl"]
    assert run([str(a) for a in arguments] + ["--quiet"] * quiet) == 0
    assert bool(asked) is not quiet


def test_the_help_has_every_exit_code_of_the_docs():
    docs = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    table = set(re.findall(r"^\| (\d+) \|", docs[docs.index("## Exit codes") :], re.MULTILINE))
    done = subprocess.run([*BRIMFUL, "predict", "--help"], capture_output=True, check=True)
    said = " ".join(done.stdout.decode().split())
    said = said[said.index("Exit codes:") : said.index("Options:")]
    assert set(re.findall(r"\b(\d+) [a-z]", said)) == table >= {"0", "1", "2", "3", "4", "5", "6"}
