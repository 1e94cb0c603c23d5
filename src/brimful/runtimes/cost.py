"""Cost: what a runtime takes for a model on this CPU, and so for a job."""

from __future__ import annotations

from dataclasses import dataclass

from brimful.cpus import BF16_FLAGS
from brimful.models.model import Model
from brimful.runtimes.registry import Entry
from brimful.runtimes.runtime import Precision

MANY = 10_000
"""What a job of unknown length counts as."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSize:
    """How much a job is.

    Attributes:
        images: Images that are to come; None when that is unknown, and counts as many.
        canvases: Canvases that they may go to.
        threads: CPU threads of the forward.
    """

    images: int | None = None
    canvases: int = 1
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a runtime takes for a model, in seconds.

    Attributes:
        load_s: Importing it and reading the model, once.
        canvas_s: Compiling for a canvas, on one thread, before its first image.
        image_s: An image once compiled, all threads busy.
        canvas_mib: Memory that the first canvas takes, in MiB; None where it was not measured.
    """

    load_s: float
    canvas_s: float
    image_s: float
    canvas_mib: int | None = None

    def of(self, job: JobSize) -> float:
        """Return the seconds that a job takes.

        Canvases after the first are compiled side by side, by the threads that decode.
        """
        images = MANY if job.images is None else job.images
        canvases = min(images, job.canvases)
        more = self.canvas_s * max(0, canvases - 1) / max(1, min(job.threads, canvases))
        return self.load_s + self.canvas_s * min(1, canvases) + more + self.image_s * images


# What benchmarks/NOTES.md measured for YOLO26n at 480x640, whose weights are 9.8 MB in fp32.
_BYTES = 9.8e6
_IMAGE_S = 0.045  # on one thread, fp32
_FASTER = {"amx_bf16": 2.2, "avx512_bf16": 1.5}
_LOAD_S = {"onnxruntime": 0.2, "openvino": 0.3, "torch": 4.0}
_CANVAS_S = {"onnxruntime": 0.0, "openvino": 0.45, "torch": 0.0}
_SLOWER = {"torch": 1.5}


def assumed_cost(
    entry: Entry, precision: Precision, model: Model, threads: int, flags: frozenset[str]
) -> Cost:
    """Guess what a runtime takes, from the size of the model's file and what the CPU can do.

    It is good enough to tell a short job from a long one.

    Args:
        entry: The runtime.
        precision: Arithmetic of the forward.
        model: The model; a `.pt` is taken to store fp16.
        threads: CPU threads of the forward.
        flags: What the CPU can do.
    """
    files = [model.path] if model.path.is_file() else list(model.path.glob("*.bin"))
    size = sum(file.stat().st_size for file in files) * (2 if model.format == "pt" else 1)
    scale = max(size / _BYTES, 0.02)
    image_s = _IMAGE_S * scale / threads * _SLOWER.get(entry.name, 1.0)
    if precision == "bf16":
        image_s /= max((_FASTER[flag] for flag in flags & BF16_FLAGS), default=1.0)
    return Cost(
        load_s=_LOAD_S.get(entry.name, 0.5),
        canvas_s=_CANVAS_S.get(entry.name, 0.0) * scale**0.5,
        image_s=image_s,
    )
