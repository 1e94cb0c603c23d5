"""Files to JSON lines on the CPU: brimful beside `ultralytics predict`, in one run.

    python benchmarks/cpu_predict.py            # what `make bench` runs
    python benchmarks/cpu_predict.py --rounds 1 --passes 1

Every contestant is a process of its own, and they take turns, round after round, so that a drift
of the machine's speed hits all of them. Each loads the model, makes one pass over the folder to
warm up (compilation is not counted), and then times `--passes` passes from files to JSON lines,
at conf 0.25. Peak memory is the process's own. Accuracy is measured in a pass of its own at conf
0.001. Quote the ratios; absolute rates belong to the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from common import MODELS, coco_map, environment, shared, write_json

Lines = Iterator[bytes]
Predict = Callable[[Path, float], Lines]
"""From (folder, conf) to JSON lines, any number at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One way from files to JSON lines.

    Attributes:
        name: What the table calls it.
        make: Loads the model (its file, a scratch folder) and returns its predict.
    """

    name: str
    make: Callable[[Path, Path], Predict]


def brimful_contestant(runtime: str, precision: str) -> Callable[[Path, Path], Predict]:
    """Run brimful, with one engine for all passes."""

    def make(model: Path, work: Path) -> Predict:
        import cv2

        from brimful.formats.json_record import encode_jsonl
        from brimful.load import load

        cv2.setNumThreads(1)  # as the CLI does
        engines: dict[float, Any] = {}

        def predict(images: Path, conf: float) -> Lines:
            if conf not in engines:
                engines[conf] = load(
                    model, runtime=runtime, device="cpu", precision=precision, conf=conf
                )
            for results in engines[conf].stream(images):
                yield encode_jsonl(results)

        return predict

    return make


def ultralytics_contestant(*, batch: int, export: bool) -> Callable[[Path, Path], Predict]:
    """Run Ultralytics' own predict, on the checkpoint or on its own OpenVINO export."""

    def make(model: Path, work: Path) -> Predict:
        os.environ["YOLO_AUTOINSTALL"] = "false"
        from ultralytics import YOLO

        target = Path(shutil.copy(model, work / model.name))
        options: dict[str, Any] = {"nms": False} if "26" in model.name else {}
        if export:
            folder = target.with_name(target.stem + "_openvino_model")
            if not folder.exists():
                YOLO(str(target)).export(format="openvino", verbose=False, **options)
            target = folder
            options = {}
        network = YOLO(str(target), task="detect", verbose=False)

        def predict(images: Path, conf: float) -> Lines:
            for result in network.predict(
                str(images), stream=True, batch=batch, conf=conf, verbose=False, **options
            ):
                height, width = result.orig_shape
                row = {
                    "image": Path(result.path).name,
                    "width": width,
                    "height": height,
                    "detections": [
                        {
                            "bbox": row[:4],
                            "confidence": row[4],
                            "class_id": int(row[5]),
                            "class_name": result.names[int(row[5])],
                        }
                        for row in result.boxes.data.tolist()
                    ],
                }
                yield orjson.dumps(row) + b"\n"

        return predict

    return make


CHECKPOINT = ("ultralytics .pt b1", "ultralytics .pt b16")
EXPORT = "ultralytics openvino"
CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(name=CHECKPOINT[0], make=ultralytics_contestant(batch=1, export=False)),
        Contestant(name=CHECKPOINT[1], make=ultralytics_contestant(batch=16, export=False)),
        Contestant(name=EXPORT, make=ultralytics_contestant(batch=1, export=True)),
        Contestant(name="brimful openvino fp32", make=brimful_contestant("openvino", "fp32")),
        Contestant(name="brimful openvino bf16", make=brimful_contestant("openvino", "bf16")),
        Contestant(name="brimful onnxruntime", make=brimful_contestant("onnxruntime", "fp32")),
    )
}


def main() -> None:
    """Take turns, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", choices=sorted(MODELS), default="yolo26n")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--only", help="names of contestants, comma-separated")
    parser.add_argument("--contestant", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        run_contestant(options)
        return
    names = options.only.split(",") if options.only else list(CONTESTANTS)
    if not {"amx_bf16", "avx512_bf16"} & set(environment()["cpu_features"]):
        names = [name for name in names if "bf16" not in name]
        print("this CPU computes no bfloat16: those contestants are left out")
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as work:
        for number in range(options.rounds):
            for name in names:
                print(f"round {number + 1}: {name}", file=sys.stderr, flush=True)
                runs[name].append(turn(name, options, work, options.passes))
        maps = {name: accuracy(name, options, work) for name in names}
    report(options.model, runs, maps)


def turn(name: str, options: argparse.Namespace, work: str, passes: int) -> dict[str, Any]:
    """Run a contestant in a process of its own and return its answer."""
    command = [sys.executable, __file__, "--contestant", name, "--model", options.model]
    command += ["--passes", str(passes), "--work", work]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def accuracy(name: str, options: argparse.Namespace, work: str) -> float:
    """Score a contestant at conf 0.001."""
    rows = turn(name, options, work, 0)["rows"]
    return coco_map(shared("voc100/annotations.json"), rows)[0]


def run_contestant(options: argparse.Namespace) -> None:
    """Be a contestant: print one JSON line. No passes: the rows at conf 0.001 instead of rates."""
    images = shared("voc100/images")
    output = sys.stdout
    sys.stdout = sys.stderr  # the libraries' own talk is not the answer
    model = shared(f"models/{MODELS[options.model]}")
    predict = CONTESTANTS[options.contestant].make(model, options.work)
    if not options.passes:
        rows = [json.loads(line) for some in predict(images, 0.001) for line in some.splitlines()]
        print(json.dumps({"rows": rows}), file=output)
        return
    for _ in predict(images, 0.25):
        pass
    seconds = []
    count = 0
    with (options.work / "out.jsonl").open("wb") as lines:
        for _ in range(options.passes):
            started = time.perf_counter()
            for some in predict(images, 0.25):
                lines.write(some)
                count += some.count(b"\n")
            lines.flush()
            seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = count / options.passes / statistics.median(seconds)
    print(json.dumps({"rate": rate, "rss_mib": peak}), file=output)


def report(model: str, runs: dict[str, list[dict[str, Any]]], maps: dict[str, float]) -> None:
    """Print the table and write the JSON."""
    rates = {name: [run["rate"] for run in turns] for name, turns in runs.items()}
    memory = {name: statistics.median(run["rss_mib"] for run in runs[name]) for name in runs}
    candidates = [name for name in CHECKPOINT if name in rates]
    best = max(candidates, key=lambda name: statistics.median(rates[name]), default="")

    def times(name: str, base: str) -> float | None:
        """Return the median over the rounds of the ratio within a round."""
        if base not in rates:
            return None
        ratios = [a / b for a, b in zip(rates[name], rates[base], strict=True)]
        return round(statistics.median(ratios), 3)

    rows = []
    print(f"{'':<24}{'img/s':>8}{'x best .pt':>12}{'x openvino':>12}{'peak MiB':>10}{'mAP':>8}")
    for name in runs:
        row = {
            "name": name,
            "rates": [round(rate, 2) for rate in rates[name]],
            "rate": round(statistics.median(rates[name]), 2),
            "x_checkpoint": times(name, best),
            "x_openvino_export": times(name, EXPORT),
            "rss_mib": round(memory[name]),
            "rss_x_checkpoint": round(memory[name] / memory[best], 3) if best else None,
            "map50_95": round(maps[name], 2),
        }
        rows.append(row)
        checkpoint, export = (
            "-" if row[key] is None else f"{row[key]:.2f}"
            for key in ("x_checkpoint", "x_openvino_export")
        )
        print(
            f"{name:<24}{row['rate']:>8.1f}{checkpoint:>12}{export:>12}{row['rss_mib']:>10}"
            f"{row['map50_95']:>8.2f}"
        )
    facts = {"model": model, "images": "voc100", "best_checkpoint": best, "rows": rows}
    print(f"written: {write_json('cpu_predict', facts).name}")


if __name__ == "__main__":
    main()
