"""What the CLI's tests share: real processes, and folders of images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import orjson

HERE = Path(__file__).parent
BRIMFUL = (str(Path(sys.executable).with_name("brimful")),)
"""The console script that pip installed."""

PATIENCE_S = 120.0  # ends a test that hangs, on the slowest machine


def slow(batch_ms: float, line_every_s: float = 5.0) -> tuple[str, ...]:
    """Return the command whose debug runtime takes so many milliseconds a forward."""
    return (sys.executable, str(HERE / "slow_brimful.py"), str(batch_ms), str(line_every_s))


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONWARNINGS": "default"}


def start(*arguments: object, program: Sequence[str] = BRIMFUL, **options) -> subprocess.Popen:
    """Start `brimful predict` on the debug runtime."""
    return subprocess.Popen(
        [*program, "predict", "--runtime", "debug", *map(str, arguments)],
        env=environment(),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def predict(
    *arguments: object, program: Sequence[str] = BRIMFUL, **options
) -> subprocess.CompletedProcess[bytes]:
    """Run `brimful predict` on the debug runtime to its end."""
    return brimful("predict", "--runtime", "debug", *arguments, program=program, **options)


def brimful(
    *arguments: object, program: Sequence[str] = BRIMFUL, **options
) -> subprocess.CompletedProcess[bytes]:
    """Run brimful to its end."""
    return subprocess.run(
        [*program, *map(str, arguments)],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
        **options,
    )


def rows(lines: bytes | Path) -> list[dict]:
    data = lines.read_bytes() if isinstance(lines, Path) else lines
    return [orjson.loads(line) for line in data.splitlines()]


def write_images(folder: Path, count: int, *, height: int = 24, width: int = 32) -> list[str]:
    """Write images whose gray level is their number modulo 256; return their names in order."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{i:05}.png" for i in range(count)]
    encoded: dict[int, bytes] = {}
    for i, name in enumerate(names):
        level = i % 256
        if level not in encoded:
            image = np.full((height, width, 3), level, np.uint8)
            encoded[level] = cv2.imencode(".png", image)[1].tobytes()
        (folder / name).write_bytes(encoded[level])
    return names


def level_of(row: dict) -> int:
    """Return the gray level that the debug runtime saw."""
    (detection,) = row["detections"]
    level = round((detection["confidence"] - 0.5) * 2 * 255)
    assert detection["class_id"] == level % 10
    assert detection["class_name"] == f"level{level % 10}"
    return level


def check_complete(output: Path, names: list[str]) -> None:
    """Check that a finished output has every image exactly once, in order, with its own result."""
    found = rows(output)
    assert [row["image"] for row in found] == names
    assert [row["index"] for row in found] == list(range(len(names)))
    assert [level_of(row) for row in found] == [i % 256 for i in range(len(names))]
    beside = {path.name for path in output.parent.iterdir() if path.name.startswith(output.name)}
    assert beside == {output.name}, "nothing is left of the job"


def partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def await_growth(process: subprocess.Popen, output: Path, lines: int) -> None:
    """Wait until the journal of a job has so many lines."""

    def grown() -> bool:
        path = partial(output)
        return path.exists() and path.read_bytes().count(b"\n") >= lines

    wait_until(lambda: grown() or process.poll() is not None, "the journal grows")
    assert process.poll() is None, process.communicate()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE_S:.0f} s"
        time.sleep(0.005)


def end_with(process: subprocess.Popen, number: signal.Signals) -> tuple[int, str]:
    """Send a signal; return the exit code and what was said on standard error."""
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    return process.returncode, (said or b"").decode()
