"""One, two, four GPUs: JPEG files in memory to JSON lines in order, as `--device 0,1,2,3` does it.

    python benchmarks/gpu_scaling.py

Every count of GPUs is a process of its own with one engine process per GPU (one GPU runs in the
process itself, as `brimful predict` does). The files lie in a file system in memory, each read by
the process that decodes it; the lines are written by one parent, in order, and checked.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

from common import write_json
from gpu_common import (
    WORK,
    GpuMonitor,
    contest,
    gpu_environment,
    images,
    json_lines,
    main_guard,
    model,
    tell,
)

ROOM = 2**30
"""Free bytes of the file system in memory below which the files lie in the page cache only."""

DRAWN = 4_000
CASES = (("yolo26n", 60_000), ("yolo26x", 8_000))


def memory() -> Path:
    """Return a folder in memory, or one on the disk whose files will be in the page cache."""
    shared = Path("/dev/shm")
    roomy = shared.is_dir() and shutil.disk_usage(shared).free > ROOM
    return (shared if roomy else WORK) / "brimful-scaling"


def in_memory(count: int) -> Path:
    """Return that folder with the generated JPEGs; beyond those drawn, hard links."""
    folder = memory()
    done = folder / "done"
    if not done.exists():
        drawn = sorted(images(DRAWN).glob("*.jpg"))
        folder.mkdir(parents=True, exist_ok=True)
        copies = []
        for i, file in enumerate(drawn):
            copies.append(folder / f"{i:06d}.jpg")
            copies[-1].write_bytes(file.read_bytes())
        for i in range(len(drawn), count):
            (folder / f"{i:06d}.jpg").hardlink_to(copies[i % len(copies)])
        done.touch()
    return folder


def run(gpus: int, files: list[Path], name: str, batch: int) -> None:
    """Run over files on so many GPUs."""
    from brimful.cluster.start import start_engines
    from brimful.load import load
    from brimful.sources.open_source import open_source

    begun = time.perf_counter()
    start = functools.partial(load, model(name), precision="fp16", batch=batch)
    devices = [f"cuda:{i}" for i in range(gpus)]
    output = memory().parent / "brimful-scaling.jsonl"
    with start_engines(start, devices, None, threads=None, workers=None) as engine:
        for _ in engine.predict(files[: 8 * batch * gpus]):
            pass
        start_s = time.perf_counter() - begun
        sink = json_lines(engine, output)
        with GpuMonitor() as monitor:
            begun = time.perf_counter()
            source = open_source(files)
            for encoded in engine.stream_encoded(source):
                sink.append(encoded.lines)
            sink.finish()
            seconds = time.perf_counter() - begun
    indexes = [json.loads(line)["index"] for line in output.read_bytes().splitlines()]
    output.unlink()
    tell(
        f"{gpus} GPU",
        images=len(indexes),
        in_order=indexes == list(range(len(files))),
        img_s=round(len(indexes) / seconds, 1),
        first_gpu_busy=round(monitor.busy, 1),
        start_s=round(start_s, 1),
    )


def main() -> None:
    """Run every count, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--gpus", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))))
    parser.add_argument("--case", type=int)
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    main_guard()
    files = sorted(in_memory(max(count for _, count in CASES)).glob("*.jpg"))
    if options.contestant:
        name, count = CASES[options.case]
        run(int(options.contestant.split()[0]), files[:count], name, options.batch)
        return
    rows: list[dict[str, Any]] = []
    print(f"{'model':<9}{'GPUs':>5}{'img/s':>9}{'x':>7}  in order")
    for case in options.cases:
        name, first = CASES[case][0], None
        for gpus in options.gpus:
            arguments = ["--case", str(case), "--batch", str(options.batch)]
            row = {"model": name, **contest(__file__, f"{gpus} GPU", *arguments)}
            rows.append(row)
            if "error" in row:
                print(f"{name:<9}{gpus:>5}  {row['error']}", flush=True)
                continue
            first = first or row["img_s"]
            row["ratio"] = round(row["img_s"] / first, 2)
            print(
                f"{name:<9}{gpus:>5}{row['img_s']:>9.0f}{row['ratio']:>7.2f}  {row['in_order']}",
                flush=True,
            )
    print(f"written: {write_json('gpu_scaling', {'gpu': gpu_environment(), 'rows': rows}).name}")


if __name__ == "__main__":
    main()
