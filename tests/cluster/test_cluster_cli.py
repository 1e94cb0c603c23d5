"""`brimful predict --device cpu,cpu`, as a user runs it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import orjson
import psutil
import pytest
from cluster_kit import PATIENCE_S, eventually, is_gone

from brimful.demo.dataset import write_dataset

BRIMFUL = (str(Path(sys.executable).with_name("brimful")),)
SLOW = (sys.executable, str(Path(__file__).with_name("slow_brimful.py")))
BOTH = ("--device", "cpu,cpu")


def run(*arguments, program=BRIMFUL, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*program, "predict", *map(str, arguments)],
        capture_output=True,
        timeout=PATIENCE_S,
        **options,
    )


def start(
    *arguments, batch_ms: float = 60.0, working: int = sys.maxsize, **options
) -> subprocess.Popen:
    return subprocess.Popen(
        [*SLOW, "predict", *map(str, arguments)],
        env={**os.environ, "BATCH_MS": str(batch_ms), "WORKING": str(working)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        **options,
    )


def engines(process: subprocess.Popen) -> list[int]:
    """Return the engine processes of a job."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [p.pid for p in found if "spawn_main" in " ".join(p.cmdline())]


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.fixture(scope="module")
def grays(tmp_path_factory) -> Path:
    """1,200 images, a file of which cannot be read."""
    folder = tmp_path_factory.mktemp("grays")
    for i in range(1200):
        image = np.full((24, 32, 3), i % 256, np.uint8)
        (folder / f"{i:05}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / "00600.png").write_bytes(b"torn")
    return folder


def debug(grays: Path, output: Path) -> tuple:
    return (
        *("--runtime", "debug", "--source", grays, "--output", output, "--imgsz", 64),
        *("--canvas", "square", "--batch", 8, "--max-failures", 1),
    )


@pytest.fixture(scope="module")
def expected(grays, tmp_path_factory) -> bytes:
    """What one engine writes."""
    output = tmp_path_factory.mktemp("alone") / "out.jsonl"
    done = run(*debug(grays, output), "--quiet")
    assert done.returncode == 0, done.stderr
    return output.read_bytes()


def test_the_bundled_model_on_two_processes_finds_the_same(tmp_path):
    """Batches differ, and so may the order in which a library sums: coordinates may be rounded."""
    write_dataset(tmp_path / "data", 12, seed=3, size=(240, 320), workers=1)
    job = ("--model", "demo", "--source", tmp_path / "data" / "images", "--imgsz", 192)
    one = run(*job, "--output", tmp_path / "one.jsonl")
    two = run(*job, "--output", tmp_path / "two.jsonl", *BOTH)
    assert one.returncode == two.returncode == 0, two.stderr
    rows = [
        [orjson.loads(line) for line in (tmp_path / name).read_bytes().splitlines()]
        for name in ("one.jsonl", "two.jsonl")
    ]
    assert sum(len(row["detections"]) for row in rows[0]) > 12
    for left, right in zip(*rows, strict=True):
        found, others = left.pop("detections"), right.pop("detections")
        assert left == right
        for detection, other in zip(found, others, strict=True):
            assert other.pop("bbox") == pytest.approx(detection.pop("bbox"), abs=0.02)
            assert other.pop("confidence") == pytest.approx(detection.pop("confidence"), abs=1e-3)
            assert other == detection
    said = two.stderr.decode()
    assert "12 images" in said and "devices cpu cpu" in said and " limits: " in said


def test_standard_output_and_other_formats(grays, expected, tmp_path):
    job = debug(grays, tmp_path / "out.coco.json")
    piped = run(*(a for a in job if a not in ("--output", tmp_path / "out.coco.json")), *BOTH)
    assert piped.returncode == 0 and piped.stdout == expected
    assert "1 failed" in piped.stderr.decode()
    assert run(*job, *BOTH).returncode == 0
    found = orjson.loads((tmp_path / "out.coco.json").read_bytes())
    assert len(found) == 1199


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_job_is_resumed_to_the_same_bytes(grays, expected, tmp_path, number):
    output = tmp_path / "out.jsonl"
    process = start(*debug(grays, output), *BOTH)
    eventually(lambda: lines(partial(output)) >= 50 or process.poll() is not None, "rows come")
    pids = engines(process)
    assert len(pids) == 2
    for pid in pids:
        os.kill(pid, number)
    before = lines(partial(output))
    eventually(lambda: lines(partial(output)) > before + 64, "signals are the parent's to answer")
    os.killpg(process.pid, number)  # as a terminal and a service manager do
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, said
    assert b"interrupted after" in said and b"--resume" in said
    assert b"Traceback" not in said and b"died" not in said
    assert all(map(is_gone, pids))
    kept = partial(output).read_bytes()
    assert expected.startswith(kept) and 50 <= kept.count(b"\n") < 1200
    done = run(*debug(grays, output), *BOTH, "--resume")
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == expected


def test_an_interruption_while_engines_start(grays, tmp_path):
    for delay in (0.0, 0.15):
        process = start(*debug(grays, tmp_path / "out.jsonl"), *BOTH)
        eventually(lambda: engines(process) or process.poll() is not None, "processes start")  # noqa: B023
        time.sleep(delay)  # the moment to be interrupted, not a synchronisation
        pids = engines(process)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 130, said
        assert b"Traceback" not in said
        assert all(map(is_gone, pids))
        partial(tmp_path / "out.jsonl").unlink(missing_ok=True)


def test_no_process_outlives_a_killed_parent(grays, tmp_path):
    output = tmp_path / "out.jsonl"
    process = start(*debug(grays, output), *BOTH)
    eventually(lambda: lines(partial(output)) >= 20 or process.poll() is not None, "rows come")
    pids = engines(process)
    assert len(pids) == 2
    process.kill()
    _, said = process.communicate(timeout=PATIENCE_S)  # its pipes close when the last one has gone
    assert process.returncode == -signal.SIGKILL
    eventually(lambda: all(map(is_gone, pids)), "the engine processes end")
    assert b"Traceback" not in said


def test_no_idle_process_outlives_a_killed_parent(grays):
    process = start("--runtime", "debug", "--source", "-", *BOTH, stdin=subprocess.PIPE)
    process.stdin.write(bytes(grays / "00000.png") + b"\n")
    process.stdin.flush()
    assert b"00000.png" in process.stdout.readline()
    pids = engines(process)
    assert len(pids) == 2
    process.kill()
    process.communicate(timeout=PATIENCE_S)
    eventually(lambda: all(map(is_gone, pids)), "the engine processes end")


def test_a_killed_engine_process_is_survived_and_said(grays, expected, tmp_path):
    output = tmp_path / "out.jsonl"
    process = start(*debug(grays, output), *BOTH, batch_ms=10)
    eventually(lambda: lines(partial(output)) >= 20 or process.poll() is not None, "rows come")
    os.kill(engines(process)[1], signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    assert output.read_bytes() == expected
    assert b"the engine process of cpu died: killed by SIGKILL" in said


def test_both_killed_and_resumed(grays, expected, tmp_path):
    output = tmp_path / "out.jsonl"
    process = start(*debug(grays, output), *BOTH)
    eventually(lambda: lines(partial(output)) >= 20 or process.poll() is not None, "rows come")
    for pid in engines(process):
        os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and b"Traceback" not in said
    assert b"brimful: every engine process died: cpu: killed by SIGKILL" in said
    done = run(*debug(grays, output), "--resume")  # on one
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == expected


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_a_job_on_broken_devices_fails_without_an_error_row_and_is_resumed(
    grays, expected, tmp_path, devices
):
    output = tmp_path / "out.jsonl"
    process = start(*debug(grays, output), "--device", devices, batch_ms=2, working=20)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1, said
    assert b"the device fails whatever it is given" in said and b"the device is lost" in said
    assert b"Traceback" not in said
    kept = partial(output).read_bytes()
    assert expected.startswith(kept), "a row that no working device would have written"
    assert 0 < kept.count(b"\n") < 600
    done = run(*debug(grays, output), *BOTH, "--resume")
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == expected


def test_the_parent_needs_no_torch():
    code = "import sys, brimful.cli.main, brimful.cluster.pool; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE_S).returncode == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--device", "0,x"), 2, "'x' is no device"),
        (("--device", "-1"), 2, "does not look for idle GPUs"),
        (("--device", "0,cpu"), 2, "mixes CPU and GPUs"),
        (("--device", "cpu,cpu", "--model", "none.onnx"), 4, "there is no model file none.onnx"),
        (("--device", "cuda:0,cuda:1"), 2, "the debug runtime has only cpu"),
    ],
)
def test_errors_keep_their_exit_code(grays, tmp_path, options, code, message):
    failed = run(*debug(grays, tmp_path / "out.jsonl"), *options)
    said = failed.stderr.decode()
    assert failed.returncode == code and message in said, said
    assert "Traceback" not in said and not (tmp_path / "out.jsonl").exists()
