"""A video in, an annotated video out, and the same of photographs: brimful beside `yolo predict`.

    python benchmarks/cpu_pictures.py              # three rounds, ten minutes on two cores
    python benchmarks/cpu_pictures.py --rounds 1

Every contestant is a command in a shell of its own, as a user types it, and they take turns, round
after round. The time is that of the whole command, with the start of Python and the loading of the
model; one turn before the first round is not counted, so that what is converted once is there.
Beside it stands the same command without pictures, which says what pictures cost. What was written
is looked at again: its frames are counted. Quote the ratios; absolute times belong to the machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from common import MODELS, ROOT, environment, shared, write_json

SOURCES = {"video": "videos/car-detection.mp4", "images": "voc100/images"}
BASE = "ultralytics save"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A command.

    Attributes:
        name: What the table calls it.
        command: Of a shell, with `{model}`, `{source}` and `{out}`, a folder.
        saves: Whether it makes pictures.
        bf16: Whether it computes in bfloat16.
    """

    name: str
    command: str
    saves: bool = True
    bf16: bool = False


_BIN = Path(sys.executable).parent
_YOLO = (
    f"{_BIN}/yolo predict model={{model}} source={{source}} nms=False project={{out}} verbose=False"
)
_BRIMFUL = f"{sys.executable} -c 'from brimful.cli.main import main; main()' predict --quiet"
_ARGUMENTS = " --model {model} --source {source}"

CONTESTANTS = (
    Contestant(name=BASE, command=f"{_YOLO} save=True"),
    Contestant(
        name="brimful save fp32",
        command=f"{_BRIMFUL}{_ARGUMENTS} --precision fp32 --save --save-dir {{out}}/pictures",
    ),
    Contestant(
        name="brimful save bf16",
        command=f"{_BRIMFUL}{_ARGUMENTS} --precision bf16 --save --save-dir {{out}}/pictures",
        bf16=True,
    ),
    Contestant(name="ultralytics", command=f"{_YOLO} save=False", saves=False),
    Contestant(
        name="brimful fp32",
        command=f"{_BRIMFUL}{_ARGUMENTS} --precision fp32 --output {{out}}/out.jsonl",
        saves=False,
    ),
    Contestant(
        name="brimful bf16",
        command=f"{_BRIMFUL}{_ARGUMENTS} --precision bf16 --output {{out}}/out.jsonl",
        saves=False,
        bf16=True,
    ),
)


def main() -> None:
    """Take turns, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="yolo26n")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sources", default=",".join(SOURCES))
    parser.add_argument("--only", help="names of contestants, comma-separated")
    options = parser.parse_args()
    before = environment()
    contestants = [c for c in CONTESTANTS if not options.only or c.name in options.only.split(",")]
    if not {"amx_bf16", "avx512_bf16"} & set(before["cpu_features"]):
        contestants = [c for c in contestants if not c.bf16]
        print("this CPU computes no bfloat16: those contestants are left out")
    facts: dict[str, Any] = {"model": options.model}
    with tempfile.TemporaryDirectory() as work:
        model = Path(shutil.copy(shared(f"models/{MODELS[options.model]}"), work))
        for name in options.sources.split(","):
            source = shared(SOURCES[name])
            runs: dict[str, list[dict[str, float]]] = {c.name: [] for c in contestants}
            for number in range(options.rounds + 1):
                for contestant in contestants:
                    run = turn(contestant, model, source, Path(work) / "out")
                    print(f"{name}, {contestant.name}: {run['seconds']:.1f} s", file=sys.stderr)
                    if number:
                        runs[contestant.name].append(run)
            facts[name] = report(name, source, runs)
    print(f"written: {write_json('cpu_pictures', facts).name}")


def turn(contestant: Contestant, model: Path, source: Path, out: Path) -> dict[str, float]:
    """Run a command once, and look at what it wrote."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    command = contestant.command.format(
        **{
            key: shlex.quote(str(value))
            for key, value in (("model", model), ("source", source), ("out", out))
        }
    )
    variables = {
        **os.environ,
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "PYTHONPATH": str(ROOT / "src"),
    }
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(
        command, shell=True, env=variables, capture_output=True, text=True, cwd=out, check=False
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{command}\n{done.stdout}\n{done.stderr}")
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    count, size = pictures_in(out) if contestant.saves else (0, 0)
    return {"seconds": seconds, "cpu_seconds": cpu, "pictures": count, "bytes": size}


def pictures_in(folder: Path) -> tuple[int, int]:
    """Return the images and frames of videos below a folder, and their bytes."""
    count = size = 0
    for path in folder.rglob("*"):
        if path.suffix in (".mp4", ".avi"):
            video = cv2.VideoCapture(str(path))
            while video.grab():
                count += 1
        elif path.suffix == ".jpg":
            count += 1
        else:
            continue
        size += path.stat().st_size
    return count, size


def report(name: str, source: Path, runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Print the table of a source and return its rows."""
    expected = pictures_in(source)[0] if source.is_dir() else _frames(source)
    rows = []
    print(f"\n{name}: {source.name}, {expected} images or frames")
    print(f"{'':<20}{'s':>8}{'img/s':>8}{'CPU s':>8}{'MB':>7}{'x ultralytics':>15}")
    for contestant, turns in runs.items():
        base = runs.get(BASE if turns[0]["pictures"] else "ultralytics", turns)
        seconds = statistics.median(run["seconds"] for run in turns)
        ratio = statistics.median(
            b["seconds"] / a["seconds"] for a, b in zip(turns, base, strict=True)
        )
        row = {
            "name": contestant,
            "seconds": [round(run["seconds"], 2) for run in turns],
            "rate": round(expected / seconds, 2),
            "cpu_seconds": round(statistics.median(run["cpu_seconds"] for run in turns), 2),
            "x_ultralytics_cpu_seconds": round(
                statistics.median(
                    b["cpu_seconds"] / a["cpu_seconds"] for a, b in zip(turns, base, strict=True)
                ),
                3,
            ),
            "pictures": int(turns[0]["pictures"]),
            "bytes": int(turns[0]["bytes"]),
            "x_ultralytics": round(ratio, 3),
        }
        if row["pictures"] not in (0, expected):
            print(f"{contestant} wrote {row['pictures']} pictures of {expected}")
        rows.append(row)
        print(
            f"{contestant:<20}{seconds:>8.1f}{row['rate']:>8.1f}{row['cpu_seconds']:>8.1f}"
            f"{row['bytes'] / 1e6:>7.1f}{ratio:>15.2f}"
        )
    return {"source": source.name, "images": expected, "rows": rows}


def _frames(path: Path) -> int:
    return int(cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT))


if __name__ == "__main__":
    main()
