"""JPEG files to JSON lines on one GPU, side by side with `ultralytics predict`.

    python benchmarks/gpu_predict.py

Every contestant is a process of its own. Loading and compiling are not counted on either side (our
start is shown); GPU busy is NVML's mean over the run. `model` is the rate of the same engine's graphs
alone at the same canvas and batch, `decode` that of its decoder on the same files, both measured in
the same process after the run. Ultralytics' results are iterated and not written anywhere; ours are
written as JSON lines.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from common import write_json
from gpu_common import GpuMonitor, contest, gpu_environment, images, main_guard, model, rate, tell

BATCH = 128
CASES = (
    ("yolo26n", (480, 640), 20_000),
    ("yolo26m", (480, 640), 8_000),
    ("yolo26x", (480, 640), 4_000),
    ("yolo26n", (1080, 1920), 6_000),
)


def ours(name: str, folder: Path, batch: int, workers: int | None) -> None:
    """Run the engine as `brimful predict` does, then its parts alone."""
    from brimful.load import load
    from brimful.sinks.open_sink import open_sink
    from brimful.sources.open_source import open_source

    started = time.perf_counter()
    engine = load(model(name), device="cuda", precision="fp16", batch=batch, workers=workers)
    files = sorted(folder.glob("*.jpg"))
    with engine:
        for _ in engine.predict(files[: 4 * batch]):
            pass
        start_s = time.perf_counter() - started
        output = folder.parent / f"{folder.name}.jsonl"
        sink = open_sink(
            output,
            None,
            job={},
            names=engine.spec.names,
            task=engine.spec.task,
            resume=False,
            overwrite=True,
        )
        engine.reset_stats()
        count = errors = 0
        cpu = time.process_time()
        with GpuMonitor() as monitor:
            begun = time.perf_counter()
            for results in engine.stream(open_source(str(folder))):
                sink.write(results)
                count += len(results)
                errors += sum(1 for result in results if result.error is not None)
            sink.finish()
            seconds = time.perf_counter() - begun
        cpu = time.process_time() - cpu
        report = engine.report()
        rows = [json.loads(line) for line in output.read_bytes().splitlines()]
        assert [row["index"] for row in rows] == list(range(count))
        parts = alone(engine, files, batch)
        tell(
            "ours",
            images=count,
            errors=errors,
            img_s=round(count / seconds, 1),
            gpu_busy=round(monitor.busy, 1),
            cpu_us=round(1e6 * cpu / count, 1),
            start_s=round(start_s, 2),
            limits=report.limits.name,
            stages={use.name: round(use.busy, 3) for use in report.stages},
            mean_batch=round(count / sum(report.batches.values()), 1),
            engine=engine.describe(),
            **parts,
        )


def alone(engine: Any, files: list[Path], batch: int) -> dict[str, float]:
    """Return the rates of the engine's graphs alone and of its decoder alone."""
    import torch

    from brimful.runtimes.cuda.loader import Loader
    from brimful.runtimes.cuda.slot import CudaSlot
    from brimful.vision.decode import read_encoded

    runtime = engine.runtime
    encoded = [read_encoded(file.read_bytes()) for file in files[:batch]]
    geometries = [engine._policy.place(one.header.size) for one in encoded]
    canvas = geometries[0].canvas
    assert all(geometry.canvas == canvas for geometry in geometries)
    graphs = [(lane, lane.graph(canvas, batch)) for lane in runtime._lanes]

    def forwards() -> int:
        for lane, graph in graphs * 4:
            with torch.cuda.stream(lane.stream):
                graph.replay()
        torch.cuda.synchronize()
        return 4 * len(graphs) * batch

    slot = CudaSlot(canvas, batch, 3)
    for position, (one, geometry) in enumerate(zip(encoded, geometries, strict=True)):
        slot.put(position, one, geometry)
    size = sum(runtime._loader._plan(slot, i).size for i in range(batch))
    loader = Loader(batch, 3, 2 * size, runtime._device)

    def decodes() -> int:
        for piece in loader.pieces(slot, batch, {}):
            assert piece.arena is not None
            piece.arena.release(torch.cuda.current_stream())
        return batch

    figures = {"model": round(rate(forwards, 2.0), 1), "decode": round(rate(decodes, 2.0), 1)}
    loader.close()
    return figures


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
    tell("ultralytics", images=count, img_s=round(count / seconds, 1), gpu_busy=round(monitor.busy, 1))


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
    tell("dataloader", images=count, img_s=round(count / seconds, 1), gpu_busy=round(monitor.busy, 1))


def main() -> None:
    """Run the contestants of every case, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--model", default="yolo26n")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--scale", type=float, default=1.0, help="Share of the images to run.")
    parser.add_argument("--others", type=int, default=4_000, help="Images for the other tools.")
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))))
    options = parser.parse_args()
    main_guard()
    if options.contestant == "ours":
        return ours(options.model, options.folder, options.batch, options.workers)
    if options.contestant == "ultralytics":
        return ultralytics(options.model, options.folder, 32)
    if options.contestant == "dataloader":
        return dataloader(options.model, options.folder, 128)
    rows = []
    head = f"{'model':<9}{'image':<11}{'contestant':<13}{'img/s':>8}{'x':>7}{'busy':>6}"
    print(head + f"{'model':>8}{'decode':>8}{'of min':>8}  limits")
    for case in options.cases:
        name, size, count = CASES[case]
        distinct = None if size == (480, 640) else 1_000
        whole = images(int(count * options.scale), size, distinct)
        part = images(min(options.others, int(count * options.scale)), size, distinct)
        found = {}
        for contestant in ("ultralytics", "dataloader", "ours"):
            if contestant == "dataloader" and case:
                continue
            folder = whole if contestant == "ours" else part
            workers = ["--workers", str(options.workers)] if options.workers else []
            figures = contest(
                *(__file__, contestant, "--model", name, "--folder", str(folder)),
                *("--batch", str(options.batch), *workers),
            )
            found[contestant] = figures
            row = {"model": name, "size": size, **figures}
            base = found["ultralytics"].get("img_s")
            if "img_s" in figures and base:
                row["ratio"] = round(figures["img_s"] / base, 2)
            if "model" in figures and "decode" in figures:
                row["model"], row["model_img_s"] = name, figures["model"]
                row["of_slower"] = figures["img_s"] / min(figures["model"], figures["decode"])
            rows.append(row)
            show(row)
    path = write_json("gpu_predict", {"gpu": gpu_environment(), "batch": options.batch, "rows": rows})
    print(f"written: {path.name}")


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    size = f"{row['size'][1]}x{row['size'][0]}"
    start = f"{row['model']:<9}{size:<11}{row['contestant']:<13}"
    if "error" in row:
        print(start + row["error"], flush=True)
        return
    line = f"{row['img_s']:>8.0f}{row.get('ratio', 0):>7.2f}{row['gpu_busy']:>6.0f}"
    if "model_img_s" in row:
        line += f"{row['model_img_s']:>8.0f}{row['decode']:>8.0f}{row['of_slower']:>8.2f}"
        line += f"  {row['limits']} (start {row['start_s']} s, cpu {row['cpu_us']} us/image)"
    print(start + line, flush=True)


if __name__ == "__main__":
    main()
