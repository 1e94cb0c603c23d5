"""Files to JSON lines with a segment model, its masks computed on the device and on the host.

    python benchmarks/gpu_masks.py

yolo26n-seg fp16, generated 640x480 JPEGs. There are no trained weights of it here: boxes are those
of the COCO checkpoint of yolo26n, and the mask branch is random, with a bias that gives masks of a
few runs a column. `conf` is low, so that there are some objects in pictures of machine parts;
`masks` and `bytes` say how many, and how long their run lengths are, per image. `bus` is what the
device sends to the host for an image: rows and run lengths, or rows and prototypes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common import shared, write_json
from gpu_common import WORK, GpuMonitor, contest, gpu_environment, images, main_guard, tell

BATCH = 128
CONTESTANTS = ("device", "host")


def segment_model() -> Path:
    """Return a yolo26n-seg that finds what yolo26n finds."""
    import os

    path = WORK / "yolo26n-seg-coco.pt"
    if not path.exists():
        os.environ.setdefault("YOLO_OFFLINE", "1")
        import torch
        from ultralytics import YOLO

        torch.manual_seed(0)
        yolo = YOLO("yolo26n-seg.yaml").load(str(shared("models/yolo26n-coco.pt")))
        head = yolo.model.model[-1]
        with torch.no_grad():
            for branch in (*head.cv4, *head.one2one_cv4):
                branch[-1].bias.fill_(0.3)
        path.parent.mkdir(parents=True, exist_ok=True)
        yolo.save(path)
    return path


def run(contestant: str, count: int, conf: float, batch: int) -> None:
    """Run with masks on the device or on the host."""
    from brimful.engine.config import EngineConfig
    from brimful.engine.engine import Engine
    from brimful.formats.json_record import encode_jsonl
    from brimful.models.model import ModelOptions, open_model
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime
    from brimful.runtimes.cuda.techniques import Techniques
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.sources.open_source import open_source
    from brimful.vision.postprocess import PostprocessConfig

    options = RuntimeOptions(
        device="cuda:0", precision="fp16", max_batch=batch, postprocess=PostprocessConfig(conf=conf)
    )
    model = open_model(segment_model(), ModelOptions())
    techniques = Techniques(masks=contestant == "device")
    folder = images(count)
    files = sorted(folder.glob("*.jpg"))
    with Engine(TorchCudaRuntime(model, options, techniques), EngineConfig()) as engine:
        for _ in engine.predict(files[: 3 * batch]):
            pass
        engine.reset_stats()
        with GpuMonitor() as monitor:
            begun = time.perf_counter()
            done = size = masks = text = 0
            cpu = time.process_time()
            for results in engine.stream(open_source(str(folder))):
                size += len(encode_jsonl(results))
                done += len(results)
                for result in results:
                    assert result.error is None and result.masks is not None
                    masks += len(result.masks)
                    text += sum(len(mask["counts"]) for mask in result.masks)
            seconds = time.perf_counter() - begun
            cpu = time.process_time() - cpu
        channels = engine.spec.extra
        bus = 4 * masks * (6 + channels + 1) + text
        if contestant == "host":
            bus = 4 * masks * (6 + channels) + done * 4 * channels * 120 * 160
        tell(
            contestant,
            images=done,
            json_bytes=size,
            img_s=round(done / seconds, 1),
            masks=round(masks / done, 2),
            text_bytes=round(text / done, 1),
            bus_bytes=round(bus / done, 1),
            cpu_us=round(1e6 * cpu / done, 1),
            gpu_busy=round(monitor.busy, 1),
            limits=engine.report().limits.name,
            timings={name: round(spent, 2) for name, spent in engine.runtime.timings.items()},
        )


def main() -> None:
    """Run both, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--conf", type=float, default=0.01)
    parser.add_argument("--batch", type=int, default=BATCH)
    options = parser.parse_args()
    main_guard()
    if options.contestant:
        run(options.contestant, options.images, options.conf, options.batch)
        return
    images(options.images)
    segment_model()
    rows = []
    print(f"{'masks on':<10}{'img/s':>8}{'masks':>8}{'bytes':>8}{'bus':>10}{'busy':>6}  limits")
    arguments = ("--images", str(options.images), "--conf", str(options.conf))
    arguments += ("--batch", str(options.batch))
    for contestant in CONTESTANTS:
        row = contest(__file__, contestant, *arguments, timeout_s=300)
        rows.append(row)
        if "error" in row:
            print(f"{contestant:<10}{row['error']}", flush=True)
            continue
        print(
            f"{contestant:<10}{row['img_s']:>8.0f}{row['masks']:>8.1f}{row['text_bytes']:>8.0f}"
            f"{row['bus_bytes']:>10.0f}{row['gpu_busy']:>6.0f}  {row['limits']}",
            flush=True,
        )
    facts = {"gpu": gpu_environment(), "batch": options.batch, "conf": options.conf, "rows": rows}
    path = write_json("gpu_masks", facts)
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
