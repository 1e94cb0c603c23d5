"""Each technique of the CUDA runtime switched off alone: files to JSON lines, one process.

    python benchmarks/gpu_ablation.py

yolo26n fp16, batch 128, generated 640x480 JPEGs. `letterbox` replaces the one kernel by PyTorch's
operators, image by image; the other switches are those of `brimful.runtimes.cuda.techniques`.
Without `decode` pixels come from CPU threads, through the slots' pinned rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

from common import write_json
from gpu_common import GpuMonitor, contest, gpu_environment, images, main_guard, model, tell

BATCH = 128
CONTESTANTS = ("everything", "decode", "letterbox", "graphs", "fused", "select", "all four")


def run(off: str, count: int) -> None:
    """Run with a technique switched off."""
    from brimful.engine.config import EngineConfig
    from brimful.engine.engine import Engine
    from brimful.formats.json_record import encode_jsonl
    from brimful.models.model import ModelOptions, open_model
    from brimful.runtimes.cuda import loader
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime
    from brimful.runtimes.cuda.techniques import Techniques
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.sources.open_source import open_source
    from brimful.vision.postprocess import PostprocessConfig

    names = [field.name for field in dataclasses.fields(Techniques)]
    switches = {name: off not in (name, "all four") for name in names}
    if off == "letterbox":
        loader.letterbox = letterbox_by_operators
    opened = open_model(model("yolo26n"), ModelOptions())
    options = RuntimeOptions(
        device="cuda:0", precision="fp16", max_batch=BATCH, postprocess=PostprocessConfig()
    )
    folder = images(count)
    files = sorted(folder.glob("*.jpg"))
    with Engine(
        TorchCudaRuntime(opened, options, Techniques(**switches)), EngineConfig()
    ) as engine:
        for _ in engine.predict(files[: 3 * BATCH]):
            pass
        engine.reset_stats()
        with GpuMonitor() as monitor:
            begun = time.perf_counter()
            done = size = 0
            for results in engine.stream(open_source(str(folder))):
                size += len(encode_jsonl(results))
                done += len(results)
            seconds = time.perf_counter() - begun
        tell(
            off,
            images=done,
            bytes=size,
            img_s=round(done / seconds, 1),
            gpu_busy=round(monitor.busy, 1),
            limits=engine.report().limits.name,
        )


def letterbox_by_operators(table: Any, out: Any, *, count: int) -> None:
    """Do what the letterbox kernel does with PyTorch's operators, an image at a time."""
    import torch
    from torch.nn import functional

    rows = table.cpu().numpy()
    for pointer, stride_y, _, _, height, width, high, wide, top, left, row, *_ in rows.tolist():
        size = height * stride_y
        memory = torch.empty(0, dtype=torch.uint8, device=out.device)
        storage = torch._C._construct_storage_from_data_pointer(pointer - 2, out.device, size)
        memory.set_(storage, 0, (height, width, 3), (stride_y, 3, 1))
        pixels = memory.flip(2).permute(2, 0, 1)[None].float()
        if (height, width) != (high, wide):
            pixels = functional.interpolate(pixels, (high, wide), mode="bilinear")
        out[row] = 114 / 255
        out[row, :, top : top + high, left : left + wide] = (pixels / 255)[0].to(out.dtype)


def main() -> None:
    """Run everything, then without each technique; print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--images", type=int, default=6_000)
    parser.add_argument("--contestants", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    options = parser.parse_args()
    main_guard()
    if options.contestant:
        run(options.contestant, options.images)
        return
    images(options.images)
    rows = []
    print(f"{'without':<12}{'img/s':>8}{'of all':>8}{'busy':>6}  limits")
    for contestant in options.contestants:
        row = contest(__file__, contestant, "--images", str(options.images), timeout_s=120)
        rows.append(row)
        if "error" in row:
            print(f"{contestant:<12}{row['error']}", flush=True)
            continue
        row["of_all"] = round(row["img_s"] / rows[0].get("img_s", row["img_s"]), 3)
        print(
            f"{contestant:<12}{row['img_s']:>8.0f}{row['of_all']:>8.2f}{row['gpu_busy']:>6.0f}  "
            f"{row['limits']}",
            flush=True,
        )
    path = write_json("gpu_ablation", {"gpu": gpu_environment(), "batch": BATCH, "rows": rows})
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
