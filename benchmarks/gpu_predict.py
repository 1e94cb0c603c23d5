"""JPEG files to JSON lines on one GPU, side by side with `ultralytics predict`.

    python benchmarks/gpu_predict.py

Every contestant is a process of its own. Loading and compiling are not counted on either side (our
start is shown); GPU busy is NVML's mean over the run. `ours xN` is N engine processes on the one
GPU (`--device 0,0`). `alone` measures the same engine's graphs alone at the same canvas and batch,
and its decoder alone on the same files; `of min` is our rate over the smaller of the two.
Ultralytics' results are iterated and not written anywhere; ours are written as JSON lines.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from pathlib import Path
from typing import Any

from common import write_json
from gpu_common import (
    GpuMonitor,
    contest,
    gpu_environment,
    images,
    json_lines,
    main_guard,
    model,
    rate,
    tell,
)

BATCH = 128
RUNS, SECONDS = 3, 8.0
"""Whole jobs, one after the other, at least so many and for so long: one is over in a second, and
NVML looks back as far, so it counts what was before the first one, too."""
CASES = (
    ("yolo26n", (480, 640), 20_000),
    ("yolo26m", (480, 640), 8_000),
    ("yolo26x", (480, 640), 4_000),
    ("yolo26n", (1080, 1920), 6_000),
)


def ours(name: str, folder: Path, batch: int, workers: int | None, processes: int) -> None:
    """Run engines as `brimful predict` does."""
    from brimful.cluster.start import start_engines
    from brimful.engine.interpreter import prepare_interpreter
    from brimful.load import load
    from brimful.sources.open_source import open_source

    started = time.perf_counter()
    start = functools.partial(load, model(name), precision="fp16", batch=batch)
    devices = ["cuda:0"] * processes
    files = sorted(folder.glob("*.jpg"))
    with start_engines(start, devices, None, threads=None, workers=workers) as engine:
        for _ in engine.predict(files[: 4 * batch * processes]):
            pass
        start_s = time.perf_counter() - started
        prepare_interpreter()
        output = folder.parent / f"{folder.name}.jsonl"
        engine.reset_stats()
        before = getattr(getattr(engine, "runtime", None), "timings", {})
        cpu, rates = time.process_time(), []
        with GpuMonitor() as monitor:
            while len(rates) < RUNS or sum(len(files) / rate for rate in rates) < SECONDS:
                output.unlink(missing_ok=True)
                begun = time.perf_counter()
                sink = json_lines(engine, output)
                images = open_source(str(folder))
                for encoded in engine.stream_encoded(images):
                    sink.append(encoded.lines)
                sink.finish()
                rates.append(len(files) / (time.perf_counter() - begun))
        seconds = sum(len(files) / rate for rate in rates)
        cpu = time.process_time() - cpu
        report = engine.report()
        timings = getattr(getattr(engine, "runtime", None), "timings", {})
        described = engine.describe()
    rows = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [row["index"] for row in rows] == list(range(len(files)))
    errors = sum(row["error"] is not None for row in rows)
    tell(
        f"ours x{processes}",
        images=len(rows),
        errors=errors,
        detections=sum(len(row["detections"]) for row in rows),
        img_s=round(statistics.median(rates), 1),
        runs_img_s=[round(rate, 1) for rate in rates],
        gpu_busy=round(monitor.busy, 1),
        peak_mib=monitor.peak >> 20,
        parent_cpu_us=round(1e6 * cpu / (len(rates) * len(rows)), 1),
        start_s=round(start_s, 2),
        limits=report.limits.name,
        stages={use.name: round(use.busy, 3) for use in report.stages},
        driver={k: round((spent - before[k]) / seconds, 3) for k, spent in timings.items()},
        mean_batch=round(len(rates) * len(rows) / max(1, sum(report.batches.values())), 1),
        engine=described,
    )


def alone(name: str, folder: Path, batch: int) -> None:
    """Measure the engine's graphs alone, and its decoder alone on the same files."""
    import torch

    from brimful.load import load
    from brimful.runtimes.cuda.input.loader import Loader
    from brimful.runtimes.cuda.slot import CudaSlot
    from brimful.vision.canvas import CanvasPolicy
    from brimful.vision.cuda.jpeg import JpegDecoder
    from brimful.vision.decode import read_encoded

    files = sorted(folder.glob("*.jpg"))
    with load(model(name), device="cuda:0", precision="fp16", batch=batch) as engine:
        for _ in engine.predict(files[: 2 * batch]):
            pass
        runtime: Any = engine.runtime
        given = runtime.pinned_for
        encoded = [read_encoded(file, pinned_for=given) for file in files[:batch]]
        policy = CanvasPolicy.for_model(engine.spec)
        geometries = [policy.place(one.header.size) for one in encoded]
        canvas = geometries[0].canvas
        assert all(geometry.canvas == canvas for geometry in geometries)
        runtime.prepare(canvas)
        graphs = [(lane, lane.graph(canvas, batch)) for lane in runtime._lanes]

        def forwards() -> int:
            for lane, graph in graphs * 4:  # in turn, as the engine does
                stream = lane.stream
                with torch.cuda.stream(stream), runtime._sequencer.next(stream, lane.finished):
                    graph.replay()
            torch.cuda.synchronize()
            return 4 * len(graphs) * batch

        slot = CudaSlot(canvas, batch, 3)
        for position, (one, geometry) in enumerate(zip(encoded, geometries, strict=True)):
            slot.put(position, one, geometry)
        device, room = runtime._device, batch * 10 * 2**20
        loader = Loader(batch, 3, device, decoder=JpegDecoder(device), limit=room)

        def accepts_encoded() -> int:
            assert sum(piece.decoded for piece in loader.pieces(slot, batch, {})) == batch
            return batch

        tell("alone", model_img_s=rate(forwards, 2.0), decode_img_s=rate(accepts_encoded, 2.0))
        loader.close()


def ultralytics(name: str, folder: Path, batch: int) -> None:
    """Run `ultralytics predict` in fp16 on a folder."""
    from ultralytics import YOLO

    yolo = YOLO(model(name))
    options: dict[str, Any] = {"device": 0, "half": True, "batch": batch, "verbose": False}
    warm = sorted(map(str, folder.glob("*.jpg")))[: 2 * batch]
    yolo.predict(warm, **options)
    with GpuMonitor() as monitor:
        begun = time.perf_counter()
        count = sum(1 for _ in yolo.predict(str(folder), stream=True, **options))
        seconds = time.perf_counter() - begun
    tell("ultralytics", images=count, img_s=count / seconds, gpu_busy=monitor.busy)


def dataloader(name: str, folder: Path, batch: int) -> None:
    """Run what articles recommend: a DataLoader with workers in front of the same network."""
    import cv2
    import numpy as np
    import torch
    from torch.utils.data import DataLoader, Dataset
    from ultralytics import YOLO
    from ultralytics.data.augment import LetterBox

    class Images(Dataset[Any]):
        def __init__(self) -> None:
            self.files = sorted(folder.glob("*.jpg"))
            self.letterbox = LetterBox((640, 640), auto=True, stride=32)

        def __len__(self) -> int:
            return len(self.files)

        def __getitem__(self, i: int) -> Any:
            image = self.letterbox(image=cv2.imread(str(self.files[i])))
            return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))

    yolo = YOLO(model(name))
    loader = DataLoader(Images(), batch_size=batch, num_workers=8, pin_memory=True)
    options: dict[str, Any] = {"device": 0, "half": True, "verbose": False}
    yolo.predict(torch.zeros(batch, 3, 480, 640), **options)
    with GpuMonitor() as monitor:
        begun = time.perf_counter()
        count = 0
        for pixels in loader:
            count += len(yolo.predict(pixels.cuda(non_blocking=True).half() / 255, **options))
        seconds = time.perf_counter() - begun
    tell("dataloader", images=count, img_s=count / seconds, gpu_busy=monitor.busy)


CONTESTANTS = ("ultralytics", "dataloader", "alone", "ours x1", "ours x2", "ours x3")


def run(contestant: str, options: argparse.Namespace) -> None:
    """Be a contestant."""
    if contestant.startswith("ours"):
        processes = int(contestant.rpartition("x")[2])
        ours(options.model, options.folder, options.batch, options.workers, processes)
    elif contestant == "alone":
        alone(options.model, options.folder, options.batch)
    elif contestant == "ultralytics":
        ultralytics(options.model, options.folder, 32)
    else:
        dataloader(options.model, options.folder, 128)


def main() -> None:
    """Run the contestants of every case, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--contestants", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--model", default="yolo26n")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the images to run.")
    parser.add_argument("--others", type=int, default=2_000, help="Images for the other tools.")
    parser.add_argument("--result", default="gpu_predict", help="Name of the JSON file.")
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))))
    options = parser.parse_args()
    main_guard()
    if options.contestant:
        run(options.contestant, options)
        return
    rows = []
    print(
        f"{'model':<9}{'image':<11}{'contestant':<13}{'img/s':>8}{'x':>7}{'busy':>6}{'of min':>8}"
    )
    for case in options.cases:
        name, size, count = CASES[case]
        distinct = None if size == (480, 640) else 500
        whole = images(int(count * options.scale), size, distinct)
        part = images(min(options.others, int(count * options.scale)), size, distinct)
        found: dict[str, dict[str, Any]] = {}
        for contestant in options.contestants:
            if contestant == "dataloader" and case:
                continue
            folder = whole if contestant.startswith("ours") else part
            workers = ["--workers", str(options.workers)] if options.workers else []
            figures = contest(
                *(__file__, contestant, "--model", name, "--folder", str(folder)),
                *("--batch", str(options.batch), *workers),
            )
            found[contestant] = figures
            row = {"model": name, "size": size, **figures}
            if "img_s" in figures and "img_s" in found.get("ultralytics", {}):
                row["ratio"] = round(figures["img_s"] / found["ultralytics"]["img_s"], 2)
            parts = found.get("alone", {})
            if contestant.startswith("ours") and "img_s" in figures and "model_img_s" in parts:
                slower = min(parts["model_img_s"], parts["decode_img_s"])
                row["of_slower"] = round(figures["img_s"] / slower, 3)
            rows.append(row)
            show(row)
    facts = {"gpu": gpu_environment(), "batch": options.batch, "rows": rows}
    path = write_json(options.result, facts)
    print(f"written: {path.name}")


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    size = f"{row['size'][1]}x{row['size'][0]}"
    start = f"{row['model']:<9}{size:<11}{row['contestant']:<13}"
    if "error" in row:
        line = row["error"]
    elif row["contestant"] == "alone":
        line = f"model {row['model_img_s']:.0f} img/s, decode {row['decode_img_s']:.0f} img/s"
    else:
        line = f"{row['img_s']:>8.0f}{row.get('ratio', 0):>7.2f}{row['gpu_busy']:>6.0f}"
    if "of_slower" in row:
        line += f"{row['of_slower']:>8.3f}  start {row['start_s']} s, {row['driver']}"
    print(start + line, flush=True)


if __name__ == "__main__":
    main()
