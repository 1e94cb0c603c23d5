"""The torch runtime and onnxruntime on one GPU: the same files, fp16, JPEG files to JSON lines.

    python benchmarks/gpu_runtimes.py
    python benchmarks/gpu_runtimes.py --export yolo26n-fp16.onnx     # where the onnx package is
    python benchmarks/gpu_runtimes.py --onnx yolo26n-fp16.onnx       # where it is not

Every contestant is a process of its own; loading and capturing are not counted (the start is
shown). `alone` is the rate of one lane's forwards with the selection behind them. `static` opens a
session for each canvas and batch size, `nhwc` lets convolutions read channels last, `graphs` lets
onnxruntime capture. `paired` is the share of torch's detections for which a contestant has one of
the same class in the same image, at an IoU of 0.9 and a confidence within 0.05, and the reverse.
The photographs of voc100 are compared as well, all on the one canvas of the run, and their mAP is
that of the detections above the run's confidence: it compares contestants, and nothing else.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from common import coco_map, shared, write_json
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

PROVIDERS: dict[str, dict[str, bool]] = {
    "onnxruntime": {},
    "onnxruntime static": {"static": True},
    "onnxruntime nhwc": {"static": True, "nhwc": True},
    "onnxruntime graphs": {"static": True, "graphs": True},
    "onnxruntime nhwc graphs": {"static": True, "nhwc": True, "graphs": True},
}
CONTESTANTS = ("torch", *PROVIDERS)
IOU, SCORE = 0.9, 0.05
CANVAS = "480x640"


def opened(contestant: str, checkpoint: Path, onnx: Path | None, batch: int, conf: float) -> Any:
    """Return a runtime and what selects."""
    from brimful.models.model import ModelOptions, open_model
    from brimful.runtimes.cuda.onnx.provider import ProviderTechniques
    from brimful.runtimes.cuda.onnx.runtime import OnnxCudaRuntime
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.vision.canvas import CanvasPolicy
    from brimful.vision.postprocess import PostprocessConfig

    config = PostprocessConfig(conf=conf)
    options = RuntimeOptions(
        device="cuda:0",
        precision="fp16",
        max_batch=batch,
        policy=functools.partial(CanvasPolicy.for_model, canvas=CANVAS),
        postprocess=config,
    )
    if contestant == "torch":
        return TorchCudaRuntime(open_model(checkpoint, ModelOptions()), options), config
    found = open_model(onnx or checkpoint, ModelOptions())
    provider = ProviderTechniques(**PROVIDERS[contestant])
    return OnnxCudaRuntime(found, options, provider=provider), config


def run(contestant: str, options: argparse.Namespace) -> None:
    """Be a contestant: a run over the folder, and one over the photographs."""
    from brimful.engine.config import EngineConfig
    from brimful.engine.engine import Engine
    from brimful.engine.interpreter import prepare_interpreter
    from brimful.sources.open_source import open_source

    started = time.perf_counter()
    checkpoint = model(options.model)
    runtime, config = opened(contestant, checkpoint, options.onnx, options.batch, options.conf)
    engine = Engine(
        runtime, EngineConfig(postprocess=config, canvas=CANVAS, workers=options.workers)
    )
    photos = shared("voc100/images")
    output = WORK / "runtimes" / contestant.replace(" ", "-")
    with engine:
        files = sorted(options.folder.glob("*.jpg"))
        for _ in engine.predict(files[: 4 * options.batch]):
            pass
        start_s = time.perf_counter() - started
        prepare_interpreter()
        engine.reset_stats()
        before = runtime.timings
        with GpuMonitor() as monitor:
            begun = time.perf_counter()
            write(engine, open_source(str(options.folder)), output / "folder.jsonl")
            seconds = time.perf_counter() - begun
        report = engine.report()
        timings = {
            name: round((spent - before[name]) / seconds, 3)
            for name, spent in runtime.timings.items()
        }
        write(engine, open_source(str(photos)), output / "photos.jsonl")
        rates = runtime._lanes[0].rates((480, 640))
        described = engine.describe()
    rows = read(output / "folder.jsonl")
    assert [row["index"] for row in rows] == list(range(len(files)))
    tell(
        contestant,
        images=len(rows),
        errors=sum(row["error"] is not None for row in rows),
        detections=sum(len(row["detections"]) for row in rows),
        img_s=round(len(rows) / seconds, 1),
        gpu_busy=round(monitor.busy, 1),
        peak_mib=monitor.peak >> 20,
        start_s=round(start_s, 2),
        limits=report.limits.name,
        driver=timings,
        alone={bucket: round(rate) for bucket, rate in sorted(rates.items())},
        engine=described,
    )


def write(engine: Any, source: Any, path: Path) -> None:
    """Run a source into JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = json_lines(engine, path)
    for results in engine.stream(source):
        sink.write(results)
    sink.finish()


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of JSON lines."""
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def paired(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> float:
    """Return the share of detections of both sides that have a partner on the other."""
    partners = total = 0
    for a, b in zip(found, wanted, strict=True):
        assert a["image"] == b["image"]
        one, other = (_columns(row["detections"]) for row in (a, b))
        total += len(one) + len(other)
        if len(one) and len(other):
            same = _overlap(one[:, :4], other[:, :4]) >= IOU
            same &= one[:, None, 4] == other[None, :, 4]
            same &= np.abs(one[:, None, 5] - other[None, :, 5]) <= SCORE
            partners += int(same.any(axis=1).sum() + same.any(axis=0).sum())
    return partners / max(1, total)


def _columns(detections: list[dict[str, Any]]) -> Any:
    """Return (n, 6): x1 y1 x2 y2 class confidence."""
    rows = [[*d["bbox"], d["class_id"], d["confidence"]] for d in detections]
    return np.array(rows, np.float64).reshape(-1, 6)


def _overlap(one: Any, other: Any) -> Any:
    """Return the IoU of each box of one with each of the other."""
    near = np.maximum(one[:, None, :2], other[None, :, :2])
    far = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared_area = np.clip(far - near, 0, None).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return shared_area / (areas[0][:, None] + areas[1][None] - shared_area)


def export(name: str, target: Path) -> None:
    """Write the fp16 ONNX file that the contestants run."""
    from brimful.models.model import ModelOptions, open_model
    from brimful.models.to_fp16 import to_fp16

    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(to_fp16(open_model(model(name), ModelOptions()).as_onnx()), target)
    print(f"written: {target}, {target.stat().st_size / 2**20:.1f} MiB")


def main() -> None:
    """Run the contestants, compare, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--contestants", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--model", default="yolo26n")
    parser.add_argument("--onnx", type=Path, help="A ready-made fp16 .onnx of the model.")
    parser.add_argument("--export", type=Path, help="Write that file, and do nothing else.")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--conf", type=float, default=0.25)
    options = parser.parse_args()
    if options.export:
        export(options.model, options.export)
        return
    main_guard()
    if options.contestant:
        run(options.contestant, options)
        return
    folder = options.folder or images(options.images)
    arguments = ["--model", options.model, "--folder", str(folder), "--conf", str(options.conf)]
    arguments += ["--batch", str(options.batch)]
    arguments += ["--workers", str(options.workers)] if options.workers else []
    arguments += ["--onnx", str(options.onnx.absolute())] if options.onnx else []
    annotations = shared("voc100/annotations.json")
    rows = []
    print(
        f"{'contestant':<25}{'img/s':>8}{'busy':>6}{'alone':>8}{'start':>7}{'MiB':>8}"
        f"{'paired':>8}{'photos':>8}{'mAP':>7}"
    )
    for contestant in options.contestants:
        row = contest(__file__, contestant, *arguments)
        output = WORK / "runtimes"
        if "error" not in row and "torch" in options.contestants:
            for name, path in (("paired", "folder.jsonl"), ("paired_photos", "photos.jsonl")):
                found = read(output / contestant.replace(" ", "-") / path)
                row[name] = round(paired(found, read(output / "torch" / path)), 4)
        if "error" not in row:
            found = read(output / contestant.replace(" ", "-") / "photos.jsonl")
            named = [{**r, "image": Path(r["image"]).name} for r in found]
            row["map50_95"] = round(coco_map(annotations, named)[0], 2)
        rows.append(row)
        show(row)
    facts = {
        "gpu": gpu_environment(),
        "model": options.model,
        "batch": options.batch,
        "conf": options.conf,
        "canvas": CANVAS,
        "iou": IOU,
        "score": SCORE,
        "rows": rows,
    }
    print(f"written: {write_json('gpu_runtimes', facts).name}")


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    if "error" in row:
        line = row["error"]
    else:
        line = (
            f"{row['img_s']:>8.0f}{row['gpu_busy']:>6.0f}{max(row['alone'].values()):>8.0f}"
            f"{row['start_s']:>7.1f}{row['peak_mib']:>8}{row.get('paired', 0):>8.4f}"
            f"{row.get('paired_photos', 0):>8.4f}{row['map50_95']:>7.2f}"
        )
    print(f"{row['contestant']:<25}{line}", flush=True)


if __name__ == "__main__":
    main()
