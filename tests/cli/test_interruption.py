"""Jobs that are killed or interrupted, at any moment, go on where they were."""

from __future__ import annotations

import random
import signal
import time

import pytest
from cli_kit import (
    await_growth,
    check_complete,
    end_with,
    partial,
    predict,
    rows,
    slow,
    start,
    write_images,
)

IMAGES = 6000
KILLS = 20
LONG = slow(200)
"""400 images in batches of 4 take 20 s: nothing is done before it is interrupted."""


def test_a_job_killed_twenty_times_has_every_image_once(tmp_path):
    names = write_images(tmp_path / "in", IMAGES)
    output = tmp_path / "out.jsonl"
    # Fifteen seconds of forwards, of which each life gets a small part; the last one is quick.
    program = slow(20)
    job = ("--source", tmp_path / "in", "--output", output, "--batch", 8, "--imgsz", 64, "--resume")
    random_ = random.Random(7)
    kills, done = 0, 0
    while kills < KILLS:
        process = start(*job, "--canvas", "square", program=program)
        await_growth(process, output, done + 1)
        time.sleep(random_.uniform(0, 0.06))  # the moment to die, not a synchronisation
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
        kills += 1
        before, done = done, partial(output).read_bytes().count(b"\n")
        assert before < done < IMAGES
        assert not output.exists()
        if kills % 5 == 0:  # a line that was torn in the middle
            with partial(output).open("ab") as journal:
                journal.write(b'{"image":"00' if kills % 2 else partial(output).read_bytes()[:99])
    last = predict(*job, "--canvas", "square")
    assert last.returncode == 0, last.stderr
    assert f"resuming: {done:,} images are done already" in last.stderr.decode()
    check_complete(output, names)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_is_resumable(tmp_path, number):
    names = write_images(tmp_path / "in", 400)
    output = tmp_path / "out.jsonl"
    job = ("--source", tmp_path / "in", "--output", output, "--batch", 4)
    process = start(*job, program=LONG)
    await_growth(process, output, 5)
    code, said = end_with(process, number)
    assert code == 130
    assert "interrupted after" in said and "--resume" in said and "Traceback" not in said
    assert not output.exists()
    kept = rows(partial(output))  # whole lines
    assert 5 <= len(kept) < 400

    refused = predict(*job)
    assert refused.returncode == 2 and "--resume" in refused.stderr.decode()
    other = predict(*job, "--resume", "--conf", "0.9")
    assert other.returncode == 2 and "conf" in other.stderr.decode()
    assert rows(partial(output)) == kept

    done = predict(*job, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"{400 - len(kept)} images" in done.stderr.decode()
    check_complete(output, names)
    again = predict(*job, "--resume")
    assert again.returncode == 2 and "finished" in again.stderr.decode()
    check_complete(output, names)


def test_an_interrupted_job_of_another_format_is_resumable(tmp_path):
    write_images(tmp_path / "in", 300)
    output = tmp_path / "labels"
    job = ("--source", tmp_path / "in", "--output", output, "--format", "yolo", "--batch", 4)
    process = start(*job, program=LONG)
    await_growth(process, output, 5)
    code, _ = end_with(process, signal.SIGINT)
    assert code == 130 and not output.exists()
    assert predict(*job, "--resume").returncode == 0
    labels = sorted(path.name for path in output.iterdir())
    assert labels == [f"{i:05}.txt" for i in range(300)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "labels"]


def test_an_interrupted_job_on_standard_output(tmp_path):
    write_images(tmp_path, 400)
    process = start("--source", tmp_path, "--batch", 4, program=LONG)
    assert process.stdout is not None
    process.stdout.readline()
    code, said = end_with(process, signal.SIGINT)
    assert code == 130
    assert "interrupted" in said and "--resume" not in said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_more_paths_may_come(tmp_path, number):
    """The thread that waits for standard input neither holds up the end nor aborts it."""
    names = write_images(tmp_path, 3)
    process = start("--source", "-", stdin=-1)
    assert process.stdin is not None and process.stdout is not None
    for name in names:
        process.stdin.write(bytes(tmp_path / name) + b"\n")
    process.stdin.flush()
    for _ in names:
        process.stdout.readline()
    process.send_signal(number)
    said = process.stderr.read().decode()
    assert process.wait(30) == 130, said
    assert "Fatal" not in said and "Traceback" not in said
    process.stdin.close()
    process.stdout.close()
    process.stderr.close()


def test_a_second_writer_is_refused(tmp_path):
    write_images(tmp_path / "in", 400)
    output = tmp_path / "out.jsonl"
    job = ("--source", tmp_path / "in", "--output", output, "--batch", 4)
    process = start(*job, program=LONG)
    await_growth(process, output, 4)
    second = predict(*job, "--resume")
    assert second.returncode == 2 and "another process" in second.stderr.decode()
    code, _ = end_with(process, signal.SIGINT)
    assert code == 130
