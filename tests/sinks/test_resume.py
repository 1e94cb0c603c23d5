"""Resuming: jobs cut at every byte, killed, edited, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import orjson
import pytest
from sink_kit import BATCH, JOB, names_in, sink_to, write

from brimful.errors import BrimfulError, UsageError
from brimful.formats.json_record import encode_jsonl
from brimful.sinks import DoneSet


@pytest.mark.parametrize(
    "name", ["out.jsonl", "out.json", "out.coco.json", "out.parquet", "labels"]
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, name):
    format = "yolo" if name == "labels" else None
    write(tmp_path / "whole" / name, BATCH, format)
    output = tmp_path / "part" / name
    sink = sink_to(output, format)
    sink.write(BATCH[:3])
    sink.abandon()
    assert not output.exists()
    sink = sink_to(output, format, resume=True)
    left = [d for d in BATCH if (d.image, d.frame) not in sink.done]
    assert left == BATCH[3:]
    assert len(sink.done) == 3
    sink.write(left)
    sink.finish()
    assert names_in(output.parent) == names_in(tmp_path / "whole")
    for file in names_in(output.parent):
        if name != "out.parquet":
            assert (output.parent / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_torn_at_every_byte_of_the_last_two_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # nobody pulls the plug here
    output = tmp_path / "out.jsonl"
    partial = tmp_path / "out.jsonl.partial"
    sink = sink_to(output)
    sink.write(BATCH)
    sink.abandon()
    data = partial.read_bytes()
    job = (tmp_path / "out.jsonl.job.json").read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    for cut in range(ends[-3], len(data) + 1):
        partial.write_bytes(data[:cut])
        (tmp_path / "out.jsonl.job.json").write_bytes(job)
        sink = sink_to(output, resume=True)
        whole = sum(end <= cut for end in ends)
        assert len(sink.done) == whole
        left = [d for d in BATCH if (d.image, d.frame) not in sink.done]
        assert left == BATCH[whole:]
        sink.write(left)
        sink.finish()
        assert output.read_bytes() == data
        output.unlink()


def test_torn_first_line_and_tail_of_zeros(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH[:1])
    sink.abandon()
    partial = tmp_path / "out.jsonl.partial"
    whole = partial.read_bytes()
    for data, done in [(whole[:5], 0), (whole + bytes(5000), 1), (whole + b"x" * 200_000, 1)]:
        partial.write_bytes(data)
        sink = sink_to(tmp_path / "out.jsonl", resume=True)
        assert len(sink.done) == done
        sink.abandon()
        assert partial.read_bytes() == whole * done


def test_edited_journal_is_refused(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH)
    sink.abandon()
    partial = tmp_path / "out.jsonl.partial"
    lines = partial.read_bytes().splitlines(keepends=True)
    lines[1] = b"hello\n"
    partial.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match=r"line 2 of .* is no result"):
        sink_to(tmp_path / "out.jsonl", resume=True)


def test_another_job_is_refused_and_the_difference_listed(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH)
    sink.abandon()
    other = JOB | {"conf": 0.5, "limits": {"max": 2}, "half": True}
    with pytest.raises(UsageError) as caught:
        sink_to(tmp_path / "out.jsonl", resume=True, job=other)
    message = str(caught.value)
    assert "conf was 0.25 and is now 0.5" in message
    assert "limits.max was 1 and is now 2" in message
    assert "half was null and is now true" in message
    assert "model" not in message
    with pytest.raises(UsageError, match="names was"):
        sink_to(tmp_path / "out.jsonl", resume=True, names=("cat", "dog"))
    sink_to(tmp_path / "out.jsonl", resume=True).abandon()
    (tmp_path / "out.jsonl.job.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        sink_to(tmp_path / "out.jsonl", resume=True)
    (tmp_path / "out.jsonl.job.json").unlink()
    with pytest.raises(UsageError, match="missing"):
        sink_to(tmp_path / "out.jsonl", resume=True)


def test_existing_files_are_refused_unless_told(tmp_path):
    output = tmp_path / "out.jsonl"
    sink = sink_to(output)
    sink.write(BATCH)
    sink.abandon()
    with pytest.raises(UsageError, match="--resume to go on with it, or --overwrite"):
        sink_to(output)
    with pytest.raises(UsageError, match="give one of them"):
        sink_to(output, resume=True, overwrite=True)
    write(output, BATCH[:1], overwrite=True)
    assert output.read_bytes() == encode_jsonl(BATCH[:1])
    with pytest.raises(UsageError, match="exists; use --overwrite"):
        sink_to(output)
    with pytest.raises(UsageError, match="the job is finished"):
        sink_to(output, resume=True)
    sink = sink_to(output, overwrite=True)
    sink.write(BATCH)
    assert output.read_bytes() == encode_jsonl(BATCH[:1])  # the old output stays until the end
    sink.finish()
    assert output.read_bytes() == encode_jsonl(BATCH)
    (tmp_path / "c.images.json").touch()
    with pytest.raises(UsageError, match=r"c\.images\.json exists"):
        sink_to(tmp_path / "c.coco.json")


def test_resume_without_a_job_starts_one(tmp_path):
    write(tmp_path / "out.jsonl", BATCH, resume=True)
    assert (tmp_path / "out.jsonl").read_bytes() == encode_jsonl(BATCH)
    (tmp_path / "new.jsonl.partial").touch()  # killed before anything was written
    write(tmp_path / "new.jsonl", BATCH, resume=True)


def test_two_writers_of_one_job(tmp_path):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH)
    with pytest.raises(UsageError, match="another process is writing"):
        sink_to(tmp_path / "out.jsonl", overwrite=True)
    sink.finish()
    assert (tmp_path / "out.jsonl").read_bytes() == encode_jsonl(BATCH)


def test_conversion_that_fails_leaves_the_ledger(tmp_path, monkeypatch):
    output = tmp_path / "out.coco.json"
    sink = sink_to(output)
    sink.write(BATCH)

    def fail(*arguments, **keywords):
        raise RuntimeError("disk gone")

    with monkeypatch.context() as patch:
        patch.setattr("brimful.sinks.to_coco.to_results", fail)
        with pytest.raises(RuntimeError):
            sink.finish()
    sink.abandon()
    assert not output.exists()
    sink = sink_to(output, resume=True)
    assert len(sink.done) == 4
    sink.finish()
    assert len(json.loads(output.read_text())) == 7


def test_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.write(BATCH[:1])
    real, calls = os.write, []

    def full(descriptor: int, data: bytes) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, bytes(data)[:10])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(BrimfulError, match=r"No space left.*--resume"):
            sink.write(BATCH[1:])
    sink.write(BATCH[1:])
    sink.finish()
    assert (tmp_path / "out.jsonl").read_bytes() == encode_jsonl(BATCH)


def test_killed_process_loses_nothing_written(tmp_path):
    code = f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_sinks import BATCH, sink_to
        sink = sink_to(Path({str(tmp_path)!r}) / "out.jsonl")
        sink.write(BATCH[:3])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    process = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert process.returncode == -signal.SIGKILL
    sink = sink_to(tmp_path / "out.jsonl", resume=True)
    assert len(sink.done) == 3
    sink.write(BATCH[3:])
    sink.finish()
    rows = [orjson.loads(line) for line in (tmp_path / "out.jsonl").read_bytes().splitlines()]
    assert [row["image"] for row in rows] == [d.image for d in BATCH]


def test_done_set_agrees_with_a_set():
    rng = np.random.default_rng(0)
    done, reference = DoneSet(), set()
    for i in rng.integers(0, 2000, 1500).tolist():
        item = (f"é/{i}.jpg", None) if i % 3 else (f"v{i % 5}.mp4", i)
        done.add(*item)
        reference.add(item)
    for i in range(2000):
        for item in ((f"é/{i}.jpg", None), (f"v{i % 5}.mp4", i), (f"é/{i}.jpg", 0)):
            assert (item in done) == (item in reference)
    assert len(done) == 1500
    assert ("x", None) not in DoneSet()
    assert "x" not in done
