"""Each technique of the CUDA runtime switched off alone: files to JSON lines, one process.

    python benchmarks/gpu_ablation.py

yolo26n fp16, batch 128, generated 640x480 JPEGs. `letterbox` replaces the kernel from planes to the
canvas by PyTorch's operators, image by image; `pinned` reads files into ordinary memory; the other
switches are those of `brimful.runtimes.cuda.techniques`. Without `decode` pixels come from CPU
threads, through the slots' pinned rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from typing import Any

from common import write_json
from gpu_common import GpuMonitor, contest, gpu_environment, images, main_guard, model, tell

BATCH = 128
CONTESTANTS = (
    *("everything", "decode", "letterbox", "pinned", "graphs", "fused", "select"),
    "all of them",
)


def run(off: str, count: int) -> None:
    """Run with a technique switched off."""
    from brimful.engine.config import EngineConfig
    from brimful.engine.engine import Engine
    from brimful.formats.json_record import encode_jsonl
    from brimful.models.model import ModelOptions, open_model
    from brimful.runtimes.cuda.input.decoding import Decoding
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime
    from brimful.runtimes.cuda.techniques import Techniques
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.sources.open_source import open_source
    from brimful.vision.postprocess import PostprocessConfig

    names = [field.name for field in dataclasses.fields(Techniques)]
    switches = {name: off not in (name, "all of them") for name in names}
    if off == "letterbox":
        Decoding.place = place_by_operators  # type: ignore[method-assign]
    if off in ("pinned", "all of them"):
        TorchCudaRuntime.pinned_for = property(lambda self: None)  # type: ignore[assignment]
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


def place_by_operators(decoding: Any, out: Any, count: int) -> None:
    """Do what the kernel does with PyTorch's operators, an image at a time."""
    import torch
    from torch.nn import functional

    def plane(address: int, pitch: int, size: tuple[int, int]) -> Any:
        memory = torch.empty(0, dtype=torch.uint8, device=out.device)
        storage = torch._C._construct_storage_from_data_pointer(
            address, out.device, size[0] * pitch
        )
        memory.set_(storage, 0, size, (pitch, 1))
        return memory[None, None].float()

    with torch.cuda.stream(decoding._stream):
        for row in decoding._table_host.numpy()[:count].tolist():
            luma, blue, red, _, pitch, chroma_pitch, *size, across, down = row[:10]
            high, wide, top, left, canvas = row[13:18]
            chroma = -(-size[0] // down), -(-size[1] // across)
            y = plane(luma, pitch, (size[0], size[1]))
            cb, cr = (
                functional.interpolate(plane(at, chroma_pitch, chroma), size, mode="bilinear") - 128
                for at in (blue, red)
            )
            parts = y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb
            pixels = torch.cat(parts, 1).clamp(0, 255)
            if (high, wide) != tuple(size):
                pixels = functional.interpolate(pixels, (high, wide), mode="bilinear")
            out[canvas] = 114 / 255
            out[canvas, :, top : top + high, left : left + wide] = (pixels / 255)[0].to(out.dtype)


def main() -> None:
    """Run everything, then without each technique; print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--images", type=int, default=10_000)
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
