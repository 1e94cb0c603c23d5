"""What the GPU benchmarks share: images, models, NVML, contestants in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from common import ROOT, shared

WORK = ROOT / "benchmarks" / "work"
"""Images and models that benchmarks make; not committed."""


def main_guard() -> None:
    """Refuse to run without a GPU: a figure of something else must not look like one of it."""
    import torch

    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device")


def images(count: int, size: tuple[int, int] = (480, 640), distinct: int | None = None) -> Path:
    """Return a folder of generated JPEGs, drawn once; beyond `distinct` they are hard links."""
    from brimful.demo.dataset import write_dataset

    drawn = min(count, distinct or count)
    folder = WORK / f"images-{size[1]}x{size[0]}-{count}"
    done = folder / "done"
    if not done.exists():
        source = WORK / f"drawn-{size[1]}x{size[0]}-{drawn}"
        write_dataset(source, drawn, size=size, workers=os.cpu_count())
        folder.mkdir(parents=True, exist_ok=True)
        files = sorted((source / "images").glob("*.jpg"))
        for i in range(count):
            target = folder / f"{i:06d}.jpg"
            if not target.exists():
                target.hardlink_to(files[i % len(files)])
        done.touch()
    return folder


def model(name: str) -> Path:
    """Return a checkpoint: COCO weights where there are some, else random ones (speed only)."""
    if name == "yolo26n":
        return shared("models/yolo26n-coco.pt")
    path = WORK / f"{name}.pt"
    if not path.exists():
        os.environ.setdefault("YOLO_OFFLINE", "1")
        from ultralytics import YOLO

        path.parent.mkdir(parents=True, exist_ok=True)
        YOLO(f"{name}.yaml").save(path)
    return path


class GpuMonitor:
    """NVML's view of a device while something runs."""

    def __init__(self, every_s: float = 0.05) -> None:
        """Prepare to sample the first device that CUDA sees."""
        import pynvml

        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        index = int(visible) if visible.isdecimal() else 0

        pynvml.nvmlInit()
        self._nvml = pynvml
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self._every = every_s
        self._busy: list[int] = []
        self._decoder: list[int] = []
        self._memory: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> GpuMonitor:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop sampling."""
        self._stop.set()
        self._thread.join()

    @property
    def busy(self) -> float:
        """Mean share of the time that a kernel ran, in per cent."""
        return mean(self._busy) if self._busy else 0.0

    @property
    def decoder(self) -> float:
        """Mean share of the time that the video decoders were busy, in per cent."""
        return mean(self._decoder) if self._decoder else 0.0

    @property
    def peak(self) -> int:
        """Most bytes in use on the device, by anybody."""
        return max([*self._memory, self.used()])

    def used(self) -> int:
        """Bytes in use on the device now, by anybody."""
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)

    def _sample(self) -> None:
        while not self._stop.wait(self._every):
            self._busy.append(self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)
            self._decoder.append(self._nvml.nvmlDeviceGetDecoderUtilization(self._handle)[0])
            self._memory.append(self.used())


def contest(script: str, name: str, *arguments: str, timeout_s: float = 400) -> dict[str, Any]:
    """Run a contestant of a script in a process of its own; return what it measured, or why not."""
    command = [sys.executable, script, "--contestant", name, *arguments]
    environment = {**os.environ, "YOLO_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"contestant": name, "error": f"took longer than {timeout_s:.0f} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"contestant"')]
    if done.returncode or not lines:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        return {"contestant": name, "error": tail or f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def tell(name: str, **figures: Any) -> None:
    """Print what a contestant measured, for `contest`."""
    print(json.dumps({"contestant": name, **figures}), flush=True)


def json_lines(engine: Any, path: Path) -> Any:
    """Return the sink that `brimful predict` writes JSON lines of an engine or pool with."""
    from brimful.sinks.open_sink import open_sink

    spec = engine.spec
    return open_sink(
        path, None, job={}, names=spec.names, task=spec.task, resume=False, overwrite=True
    )


def rate(run: Callable[[], int], seconds: float) -> float:
    """Return what `run` does per second, called again and again for some seconds."""
    run()
    started = time.perf_counter()
    count = 0
    while time.perf_counter() - started < seconds:
        count += run()
    return count / (time.perf_counter() - started)


def gpu_environment() -> dict[str, Any]:
    """Return the device and driver."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    return {
        "gpu": torch.cuda.get_device_name(0),
        "gpus": torch.cuda.device_count(),
        "driver": pynvml.nvmlSystemGetDriverVersion(),
        "cuda": torch.version.cuda,
    }
