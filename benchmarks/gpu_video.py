"""Videos to detections on one GPU: NVDEC, PyAV on the CPU, and `ultralytics predict`.

    python benchmarks/gpu_video.py

The clips beside the project are looped whole, packet by packet, into three files of 10,000 frames
in all or somewhat more (`benchmarks/work`). Every contestant is a process of its own; loading and
compiling are not counted. `... alone` reads the frames and does nothing with them: what a source of
one video at a time can bring. `ours pixels` converts and letterboxes frames on CPU threads, `ours
pyav` on the GPU. GPU busy and NVDEC busy are NVML's means over the run; a device has
several NVDEC engines, and a video uses one of them. Ultralytics' results are iterated and not
written anywhere, and so are ours.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common import shared, write_json
from gpu_common import WORK, GpuMonitor, contest, gpu_environment, main_guard, model, tell

FRAMES = 10_000
BATCH = 64
CLIPS = ("bottle-detection.mp4", "car-detection.mp4", "one-by-one-person-detection.mp4")
CONTESTANTS = (
    *("ultralytics", "pyav alone", "nvdec alone"),
    *("ours pyav", "ours pixels", "ours nvdec"),
)


def looped(name: str, frames: int) -> Path:
    """Return a video that repeats a clip until it has about so many frames; nothing is encoded."""
    import av

    path = WORK / f"{Path(name).stem}-{frames}.mp4"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.mp4")
    source = shared(f"videos/{name}")
    with av.open(str(partial), "w") as out:
        stream: Any = None
        written = offset = 0
        while written < frames:
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                if stream is None:
                    stream = out.add_stream_from_template(video)
                step = round(1 / (video.average_rate * video.time_base))
                end = offset
                for packet in container.demux(video):
                    if not packet.size:
                        continue
                    end = max(end, packet.pts + offset + step)
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    out.mux(packet)
                    written += 1
                offset = end
    partial.rename(path)
    return path


def videos(frames: int) -> list[Path]:
    """Return the looped clips."""
    return [looped(name, -(-frames // len(CLIPS))) for name in CLIPS]


def engine(name: str, batch: int, *, video: bool, pictures: bool) -> Any:
    """Return an engine that decodes, or converts, frames on the device or on the CPU."""
    from brimful.engine.config import EngineConfig
    from brimful.engine.engine import Engine
    from brimful.models.model import ModelOptions, open_model
    from brimful.runtimes.cuda.runtime import TorchCudaRuntime
    from brimful.runtimes.cuda.techniques import Techniques
    from brimful.runtimes.runtime import RuntimeOptions
    from brimful.vision.postprocess import PostprocessConfig

    options = RuntimeOptions(
        device="cuda:0", precision="fp16", max_batch=batch, postprocess=PostprocessConfig()
    )
    opened = open_model(model(name), ModelOptions())
    runtime = TorchCudaRuntime(opened, options, Techniques(video=video, host_frames=pictures))
    return Engine(runtime, EngineConfig())


def ours(contestant: str, name: str, files: list[Path], batch: int) -> None:
    """Run our engine."""
    from brimful.engine.interpreter import prepare_interpreter
    from brimful.sources.open_source import open_source

    video, pictures = contestant == "ours nvdec", contestant != "ours pixels"
    with engine(name, batch, video=video, pictures=pictures) as running:
        for clip in CLIPS:
            for result in running.predict(open_source(shared(f"videos/{clip}"))):
                if result.frame == 4 * batch:
                    break
        prepare_interpreter()
        running.reset_stats()
        before = running.runtime.timings
        cpu = time.process_time()
        with GpuMonitor() as monitor:
            begun = time.perf_counter()
            errors = detections = count = 0
            for results in running.stream(open_source([str(file) for file in files])):
                count += len(results)
                errors += sum(result.error is not None for result in results)
                detections += sum(map(len, results))
            seconds = time.perf_counter() - begun
        cpu = time.process_time() - cpu
        report, timings = running.report(), running.runtime.timings
        tell(
            contestant,
            frames=count,
            errors=errors,
            detections=detections,
            frames_s=round(count / seconds, 1),
            gpu_busy=round(monitor.busy, 1),
            nvdec_busy=round(monitor.decoder, 1),
            peak_mib=monitor.peak >> 20,
            cpu_us=round(1e6 * cpu / count, 1),
            limits=report.limits.name,
            stages={use.name: round(use.busy, 3) for use in report.stages},
            driver={k: round((spent - before[k]) / seconds, 3) for k, spent in timings.items()},
            mean_batch=round(count / max(1, sum(report.batches.values())), 1),
            engine=running.describe(),
        )


def alone(contestant: str, files: list[Path]) -> None:
    """Read frames, and do nothing with them."""
    import torch

    from brimful.runtimes.cuda.input.video import CudaVideo
    from brimful.sources.frames import read_frames

    device = CudaVideo(torch.device("cuda", 0)) if contestant == "nvdec alone" else None

    def read(paths: Iterable[Path]) -> int:
        return sum(1 for path in paths for _ in read_frames(str(path), device=device))

    read(shared(f"videos/{clip}") for clip in CLIPS)
    cpu = time.process_time()
    with GpuMonitor() as monitor:
        begun = time.perf_counter()
        count = read(files)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
    cpu = time.process_time() - cpu
    tell(
        contestant,
        frames=count,
        frames_s=round(count / seconds, 1),
        gpu_busy=round(monitor.busy, 1),
        nvdec_busy=round(monitor.decoder, 1),
        cpu_us=round(1e6 * cpu / count, 1),
        note=device.describe() if device else "cpu",
    )


def ultralytics(name: str, files: list[Path], frames: int) -> None:
    """Run `ultralytics predict` in fp16, streaming the first frames of each file."""
    from ultralytics import YOLO

    yolo = YOLO(model(name))
    options: dict[str, Any] = {"device": 0, "half": True, "batch": 32, "verbose": False}
    for _ in itertools.islice(yolo.predict(str(files[0]), stream=True, **options), 64):
        pass
    with GpuMonitor() as monitor:
        begun = time.perf_counter()
        count = 0
        for file in files:
            results = yolo.predict(str(file), stream=True, **options)
            count += sum(1 for _ in itertools.islice(results, frames // len(files)))
        seconds = time.perf_counter() - begun
    tell(
        "ultralytics",
        frames=count,
        frames_s=round(count / seconds, 1),
        gpu_busy=round(monitor.busy, 1),
        nvdec_busy=round(monitor.decoder, 1),
    )


def run(options: argparse.Namespace) -> None:
    """Be a contestant."""
    files = videos(options.frames)
    if options.contestant == "ultralytics":
        ultralytics(options.model, files, options.others)
    elif options.contestant.startswith("ours"):
        ours(options.contestant, options.model, files, options.batch)
    else:
        alone(options.contestant, files)


def main() -> None:
    """Run the contestants, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--contestant")
    parser.add_argument("--contestants", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--model", default="yolo26n")
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--others", type=int, default=1_500, help="Frames for the other tool.")
    parser.add_argument("--batch", type=int, default=BATCH)
    options = parser.parse_args()
    main_guard()
    if options.contestant:
        run(options)
        return
    rows = []
    theirs = 0.0
    titles = f"{'contestant':<13}{'frames':>8}{'frames/s':>10}{'x':>7}{'gpu':>6}{'nvdec':>7}"
    print(f"{titles}{'cpu us':>8}")
    videos(options.frames)  # made here: no contestant pays for it
    for contestant in options.contestants:
        figures = contest(
            *(__file__, contestant, "--model", options.model),
            *("--frames", str(options.frames), "--others", str(options.others)),
            *("--batch", str(options.batch)),
        )
        if contestant == "ultralytics":
            theirs = figures.get("frames_s", 0.0)
        if theirs and "frames_s" in figures:
            figures["ratio"] = round(figures["frames_s"] / theirs, 2)
        rows.append(figures)
        show(figures)
    facts = {"gpu": gpu_environment(), "model": options.model, "batch": options.batch}
    path = write_json("gpu_video", {**facts, "rows": rows})
    print(f"written: {path.name}")


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    if "error" in row:
        print(f"{row['contestant']:<13}{row['error']}", flush=True)
        return
    print(
        f"{row['contestant']:<13}{row['frames']:>8}{row['frames_s']:>10.0f}"
        f"{row.get('ratio', 0):>7.2f}{row['gpu_busy']:>6.0f}{row['nvdec_busy']:>7.0f}"
        f"{row.get('cpu_us', 0):>8.0f}  {row.get('limits', '')}",
        flush=True,
    )


if __name__ == "__main__":
    main()
