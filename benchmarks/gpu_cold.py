"""From a cold shell on a GPU: real photographs of mixed sizes, beside `yolo predict`.

    python benchmarks/gpu_cold.py --jobs 1000 20000 --rounds 3

Every run is a shell of its own: interpreter, imports, loading, captures and the whole job are
counted. `first` is the seconds from the shell to the first row (of `yolo predict`: to the first
line about an image). Both write their rows to a pipe that is read at once. Both sides run once
before, uncounted, so that bytecode, compiled kernels and converted models are cached on both; then
by turns. The photographs are copies of the labelled ones beside the project.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from common import shared, write_json
from gpu_common import WORK, gpu_environment, main_guard

Contestant = tuple[list[str], re.Pattern[bytes]]
YOLO = "from ultralytics.cfg import entrypoint; entrypoint()"


def photographs(count: int) -> Path:
    """Return a folder of so many photographs, copies one after the other."""
    folder = WORK / f"photographs-{count}"
    done = folder.with_suffix(".done")
    if not done.exists():
        files = sorted(shared("voc100/images").glob("*.jpg"))
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            shutil.copyfile(files[i % len(files)], folder / f"{i:06d}.jpg")
        done.touch()
    return folder


def shell(command: list[str], row: re.Pattern[bytes]) -> dict[str, Any]:
    """Run a command; return its wall time, and the time to its first and last line about an image.

    Args:
        command: The program and its arguments.
        row: What every line about an image begins with, and no other.
    """
    env = {**os.environ, "YOLO_OFFLINE": "1", "YOLO_VERBOSE": "true"}
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    assert process.stdout is not None and process.stderr is not None
    errors: list[bytes] = []
    drain = threading.Thread(target=lambda: errors.append(process.stderr.read()))  # type: ignore[union-attr]
    drain.start()
    first, last, rows, rest = 0.0, 0.0, 0, b""
    while chunk := os.read(process.stdout.fileno(), 1 << 20):
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        rows += sum(row.match(line) is not None for line in lines)
        if rows:
            last = time.perf_counter() - started
            first = first or last
    status = process.wait()
    wall = time.perf_counter() - started
    drain.join()
    if status:
        sys.exit(f"{command} ended with {status}: {errors[0][-2000:].decode(errors='replace')}")
    return {"wall_s": wall, "first_s": first, "last_s": last, "rows": rows}


def contestants(options: argparse.Namespace, folder: Path) -> dict[str, Contestant]:
    """Return the commands of both sides, and what their lines about images begin with."""
    model = str(shared("models/yolo26n-coco.pt"))
    ours = [sys.executable, "-m", "brimful", "predict", "--model", model, "--source", str(folder)]
    yolo = [sys.executable, "-c", YOLO, "predict", f"model={model}", f"source={folder}"]
    yolo += ["half=True", "batch=32", "save=False"]
    return {
        "brimful": ([*ours, *options.brimful], re.compile(rb'\{"')),
        "yolo predict fp16 batch 32": (yolo, re.compile(rb"image \d+/\d+ ")),
    }


def main() -> None:
    """Run both sides by turns, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--jobs", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peer-rounds",
        type=int,
        nargs="+",
        default=[3],
        help="of these, for the other tool, a job",
    )
    parser.add_argument("--name", default="gpu_cold")
    parser.add_argument("--only", help="only contestants whose name begins so")
    parser.add_argument("brimful", nargs="*", help="more options of brimful predict")
    options = parser.parse_args()
    main_guard()
    cases = []
    for number, count in enumerate(options.jobs):
        peer_rounds = options.peer_rounds[min(number, len(options.peer_rounds) - 1)]
        sides = contestants(options, photographs(count))
        sides = {k: v for k, v in sides.items() if k.startswith(options.only or "")}
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        if not cases:
            for side in sides:
                shell(*contestants(options, photographs(options.jobs[0]))[side])
        for i in range(options.rounds):
            for side in sorted(sides, reverse=i % 2 == 1):
                if side != "brimful" and i >= peer_rounds:
                    continue
                runs[side].append(shell(*sides[side]))
        row: dict[str, Any] = {"images": count}
        for side, found in runs.items():
            assert all(run["rows"] == count for run in found), (side, found)
            row[side] = {
                "wall_s": round(statistics.median(run["wall_s"] for run in found), 2),
                "first_s": round(statistics.median(run["first_s"] for run in found), 2),
                "last_s": round(statistics.median(run["last_s"] for run in found), 2),
                "walls_s": [round(run["wall_s"], 2) for run in found],
                "firsts_s": [round(run["first_s"], 2) for run in found],
            }
        if len(runs) == 2:
            mine, other = (row[side]["wall_s"] for side in sides)
            row["ratio"] = round(other / mine, 2)
        cases.append(row)
        print(json.dumps(row), flush=True)
    write_json(options.name, {"gpu": gpu_environment(), "options": options.brimful, "jobs": cases})


if __name__ == "__main__":
    main()
