"""Whole commands on the CPU, from the shell to the last row: brimful beside `yolo predict`.

    python benchmarks/cpu_cold.py                              # 10, 300 and 3,000 photographs
    python benchmarks/cpu_cold.py --images 10 100 --rounds 5

Each contestant is a command line that somebody would type, in a process of its own. They take
turns, round after round, so that a drift of the machine's speed hits all of them. Caches are warm:
each has run once, `yolo` has exported its model, and brimful has measured which runtime is faster
(the JSON has how long that took). The photographs are voc100, of many sizes, under as many names as
a job needs. Counted from the start of the process: its first row, its end, and its peak memory.
Quote the ratios; absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import MODELS, shared, write_json

BIN = Path(sys.executable).parent
LIMIT_S = 900.0
CHECKPOINT, EXPORT = "ultralytics .pt", "ultralytics openvino"
AUTO = "brimful auto"


def commands(model: Path, work: Path) -> dict[str, list[str]]:
    """Return the contestants' commands, without the source."""
    brimful = [sys.executable, "-m", "brimful", "predict", "--quiet", "--device", "cpu"]
    brimful += ["--model", str(model)]
    yolo = [str(BIN / "yolo"), "predict", "save=False", "device=cpu", f"project={work / 'runs'}"]
    nms = ["nms=False"] if "26" in model.name else []
    return {
        AUTO: brimful,
        "brimful onnxruntime": [*brimful, "--runtime", "onnxruntime"],
        "brimful openvino": [*brimful, "--runtime", "openvino"],
        "brimful openvino fp32": [*brimful, "--runtime", "openvino", "--precision", "fp32"],
        CHECKPOINT: [*yolo, f"model={model}", *nms],
        EXPORT: [*yolo, f"model={model.with_name(model.stem + '_openvino_model')}"],
    }


def source_of(name: str, folder: Path) -> list[str]:
    """Return the arguments that name a folder."""
    return ["--source", str(folder)] if name.startswith("brimful") else [f"source={folder}"]


def run(command: Sequence[str], environment: dict[str, str], first: bytes) -> dict[str, float]:
    """Run a command to its end.

    Args:
        command: What is typed.
        environment: Its variables.
        first: What the line of the first image holds.

    Returns:
        Seconds to the first row and to the end, and the peak of its memory in MiB.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    assert process.stdout is not None
    first_s = 0.0
    said = []
    for line in process.stdout:
        if not first_s and first in line:
            first_s = time.perf_counter() - started
        said.append(line)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not first_s:
        sys.exit(f"{' '.join(command)} failed:\n{b''.join(said[-20:]).decode()}")
    return {
        "seconds": seconds,
        "first_s": first_s,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "rss_mib": usage.ru_maxrss / 1024,
    }


def photographs(folder: Path, count: int) -> Path:
    """Return a folder of that many names of voc100's photographs."""
    files = sorted(shared("voc100/images").glob("*.jpg"))
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.jpg").symlink_to(files[number % len(files)])
    return folder


def main() -> None:
    """Warm up, take turns, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="yolo26n")
    parser.add_argument("--images", nargs="*", type=int, default=[10, 300, 3000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="names of contestants, comma-separated")
    parser.add_argument("--name", default="cpu_cold", help="name of the JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        model = Path(shutil.copy(shared(f"models/{MODELS[options.model]}"), work))
        environment = {
            **{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"},
            "PYTHONPYCACHEPREFIX": str(work / "pyc"),
            "BRIMFUL_CACHE": str(work / "cache"),
            "YOLO_AUTOINSTALL": "false",
            "YOLO_CONFIG_DIR": str(work),
        }
        contestants = commands(model, work)
        if options.only:
            contestants = {name: contestants[name] for name in options.only.split(",")}
        measuring_s = warm_up(contestants, model, work, environment)
        jobs = []
        for count in options.images:
            folder = photographs(work / str(count), count)
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
            for number in range(options.rounds):
                for name, command in contestants.items():
                    print(
                        f"{count} images, round {number + 1}: {name}", file=sys.stderr, flush=True
                    )
                    first = b'"image"' if name.startswith("brimful") else b"image 1/"
                    full = [*command, *source_of(name, folder)]
                    runs[name].append(run(full, environment, first))
            jobs.append({"images": count, "rows": table(count, runs)})
    facts = {"model": options.model, "measuring_s": measuring_s, "jobs": jobs}
    print(f"written: {write_json(options.name, facts).name}")


def warm_up(
    contestants: dict[str, list[str]], model: Path, work: Path, environment: dict[str, str]
) -> float:
    """Fill all caches; return the seconds of a command that measures the runtimes."""
    if EXPORT in contestants:
        export = [str(BIN / "yolo"), "export", f"model={model}", "format=openvino"]
        export += ["nms=False"] if "26" in model.name else []
        subprocess.run(export, env=environment, check=True, capture_output=True)
    one = photographs(work / "one", 1)
    for name, command in contestants.items():
        first = b'"image"' if name.startswith("brimful") else b"image 1/"
        run([*command, *source_of(name, one)], environment, first)
    info = [sys.executable, "-m", "brimful", "info", "--model", str(model), "--measure"]
    started = time.perf_counter()
    shown = subprocess.run(info, env=environment, check=True, capture_output=True, text=True)
    for line in shown.stdout.splitlines():
        if line.startswith("measured"):
            print(line)
    return round(time.perf_counter() - started, 2)


def table(count: int, runs: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Print and return a row for each contestant: medians, and medians of ratios of a round."""

    def median(name: str, key: str) -> float:
        return statistics.median(one[key] for one in runs[name])

    def times(name: str, base: str, key: str = "seconds") -> float | None:
        """Return how many times less than another one it takes."""
        if base not in runs:
            return None
        pairs = zip(runs[name], runs[base], strict=True)
        return round(statistics.median(other[key] / own[key] for own, other in pairs), 3)

    by_hand = [name for name in runs if name.startswith("brimful") and name != AUTO]
    best = min(by_hand, key=lambda name: median(name, "seconds"), default=AUTO)
    print(f"{count:,} images; the best runtime by hand is {best}")
    header = ("", "s", "first row s", "CPU s", "MiB", "x .pt", "x export", "x by hand")
    print(f"{header[0]:<24}" + "".join(f"{word:>12}" for word in header[1:]))
    rows = []
    for name in runs:
        row = {
            "name": name,
            "seconds": [round(one["seconds"], 2) for one in runs[name]],
            "first_s": round(median(name, "first_s"), 2),
            "cpu_s": round(median(name, "cpu_s"), 2),
            "rss_mib": round(median(name, "rss_mib")),
            "x_checkpoint": times(name, CHECKPOINT),
            "x_openvino_export": times(name, EXPORT),
            "x_best_by_hand": times(name, best),
            "rss_x_checkpoint": times(CHECKPOINT, name, "rss_mib") if CHECKPOINT in runs else None,
        }
        rows.append(row)
        shown = [f"{median(name, 'seconds'):.2f}", row["first_s"], row["cpu_s"], row["rss_mib"]]
        shown += [row["x_checkpoint"], row["x_openvino_export"], row["x_best_by_hand"]]
        print(f"{name:<24}" + "".join(f"{'-' if x is None else x:>12}" for x in shown))
    return rows


if __name__ == "__main__":
    main()
