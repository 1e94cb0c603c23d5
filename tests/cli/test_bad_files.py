"""Files that are not what they should be, through `brimful predict` as a process."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import zlib
from pathlib import Path

import cv2
import pytest
from cli_kit import (
    level_of,
    predict,
    rows,
    write_images,
)


def png_header(width: int, height: int) -> bytes:
    """Return a PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


GOOD = [f"good{i}.png" for i in range(7)]
BAD = {
    "bad/empty.jpg": "empty",
    "bad/huge.png": "60000x60000",
    "bad/text.jpg": "not an image",
    "bad/truncated.jpg": "truncated",
    "dangling.jpg": "no such file",
    "locked": "cannot be listed",
    "secret.png": "permission denied",
}


@pytest.fixture
def mixed(tmp_path):
    """Seven good images and one of everything that goes wrong."""
    folder = tmp_path / "mixed"
    names = write_images(folder, 7)
    for name, good in zip(names, GOOD, strict=True):
        (folder / name).rename(folder / good)
    bad = folder / "bad"
    bad.mkdir()
    jpeg = cv2.imencode(".jpg", cv2.imread(str(folder / GOOD[3])))[1].tobytes()
    (bad / "truncated.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (bad / "empty.jpg").touch()
    (bad / "text.jpg").write_text("a text that is called an image")
    (bad / "huge.png").write_bytes(png_header(60_000, 60_000))
    (folder / "dangling.jpg").symlink_to(folder / "gone.jpg")
    (folder / "secret.png").write_bytes((folder / GOOD[0]).read_bytes())
    (folder / "secret.png").chmod(0)
    (folder / "locked").mkdir()
    write_images(folder / "locked", 2)
    (folder / "locked").chmod(0)
    yield folder
    (folder / "locked").chmod(0o755)


CAPABILITIES = (1, 2)  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of linux/capability.h
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24


def obey_permissions() -> None:
    """Take from root, before a program starts, what puts it above file permissions."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in CAPABILITIES:
        if libc.prctl(PR_CAPBSET_READ, capability) == 1 and libc.prctl(PR_CAPBSET_DROP, capability):
            raise OSError(ctypes.get_errno(), "prctl")


@pytest.fixture
def mixed_job(mixed):
    """Return a function that runs the mixed folder in a process that permissions hold for."""

    def run(output: Path, *arguments: object):
        return predict(
            "--source", mixed, "--output", output, *arguments, preexec_fn=obey_permissions
        )

    seen = subprocess.run(
        ["cat", str(mixed / "secret.png")],
        preexec_fn=obey_permissions,
        capture_output=True,
        check=False,
    )
    assert b"Permission denied" in seen.stderr
    return run


def check_mixed(output: Path) -> None:
    found = {row["image"]: row for row in rows(output)}
    assert set(found) == {*GOOD, *BAD}
    assert len(rows(output)) == len(found)
    for i, name in enumerate(GOOD):
        assert found[name]["error"] is None
        assert level_of(found[name]) == i
    for name, reason in BAD.items():
        assert reason in found[name]["error"], found[name]["error"]
        assert found[name]["detections"] == []
        assert (found[name]["width"], found[name]["height"]) == (0, 0)


def test_a_mixed_folder_gives_a_row_for_everything(tmp_path, mixed, mixed_job):
    output = tmp_path / "out.jsonl"
    done = mixed_job(output)
    assert done.returncode == 3, done.stderr
    check_mixed(output)
    said = done.stderr.decode()
    assert "7 of 14 images failed" in said and "--max-failures" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("limit", ["7", "50%", "100%"])
def test_failures_that_are_allowed_are_no_failure(tmp_path, mixed_job, limit):
    output = tmp_path / "out.jsonl"
    done = mixed_job(output, "--max-failures", limit)
    assert done.returncode == 0, done.stderr
    check_mixed(output)


def test_a_share_of_failures_is_judged_at_the_end(tmp_path, mixed_job):
    done = mixed_job(tmp_path / "out.jsonl", "--max-failures", "49%")
    assert done.returncode == 3
    check_mixed(tmp_path / "out.jsonl")


def test_too_many_failures_stop_the_job_which_can_go_on(tmp_path, mixed_job):
    output = tmp_path / "out.jsonl"
    done = mixed_job(output, "--max-failures", "2")
    assert done.returncode == 3
    assert "--resume" in done.stderr.decode()
    assert not output.exists()
    kept = rows(tmp_path / "out.jsonl.partial")
    assert sum(row["error"] is not None for row in kept) >= 3
    done = mixed_job(output, "--max-failures", "7", "--resume")
    assert done.returncode == 0, done.stderr
    check_mixed(output)


def test_a_file_that_vanishes_after_it_was_listed(tmp_path):
    names = write_images(tmp_path / "in", 3)
    listing = tmp_path / "list.txt"
    listing.write_text("\n".join(f"in/{name}" for name in [*names[:1], "gone.png", *names[1:]]))
    done = predict("--source", listing, "--quiet")
    assert done.returncode == 3
    found = rows(done.stdout)
    assert [row["image"] for row in found] == [
        "in/00000.png",
        "in/gone.png",
        "in/00001.png",
        "in/00002.png",
    ]
    assert "vanished" in found[1]["error"]
    assert [level_of(found[i]) for i in (0, 2, 3)] == [0, 1, 2]


def test_only_bad_files(tmp_path):
    (tmp_path / "a.jpg").touch()
    done = predict("--source", tmp_path)
    assert done.returncode == 3
    assert len(rows(done.stdout)) == 1
    assert "1 of 1 images failed" in done.stderr.decode()
