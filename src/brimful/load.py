"""load: from a model file to a running engine, in one call."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from brimful.cpus import available_cpus
from brimful.engine.config import EngineConfig, OnStageDeath
from brimful.engine.engine import Engine
from brimful.errors import UsageError
from brimful.memory.size import parse_bytes
from brimful.models.model import Model, ModelOptions, open_model
from brimful.models.signature import SpecOverrides
from brimful.runtimes.choice import AnyPrecision, choose
from brimful.runtimes.cost import JobSize
from brimful.runtimes.placement import place
from brimful.runtimes.registry import check_name, load_runtime
from brimful.runtimes.runtime import RuntimeOptions
from brimful.spec import Classes, Task
from brimful.vision.canvas import CanvasPolicy, parse_canvas, usual_canvases
from brimful.vision.decode import DecodeLimits
from brimful.vision.postprocess import PostprocessConfig

_log = logging.getLogger("brimful")


def load(
    model: str | Path | None,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: AnyPrecision = "auto",
    batch: int | Literal["auto"] | None = None,
    gpu_mem: int | str | None = None,
    imgsz: int | tuple[int, int] | None = None,
    canvas: str = "auto",
    conf: float = 0.25,
    iou: float = 0.7,
    max_det: int = 300,
    classes: Classes | None = None,
    agnostic_nms: bool = False,
    multi_label: bool = False,
    nms: bool | None = None,
    task: Task | None = None,
    names: Sequence[str] | None = None,
    trust_model: bool = False,
    threads: int | None = None,
    workers: int | None = None,
    limits: DecodeLimits | None = None,
    max_delay_ms: float = 300.0,
    max_batch_pixels: int | None = None,
    queue: int = 160,
    queue_bytes: int = 256 * 2**20,
    stall_s: float = 120.0,
    on_stage_death: OnStageDeath = "stop",
    images: int | None = None,
) -> Engine:
    """Load a model and start an engine on it.

    Args:
        model: A `.pt`, `.onnx` or `.torchscript` file, or an OpenVINO folder; None only with the
            `debug` runtime.
        runtime: `auto` for the one with which `images` are done first, or a name of
            `brimful.runtimes.registry`. On a CPU, `auto` measures once a model and machine.
        device: `auto` for a GPU if there is one that can run the model, else the CPU; `cpu`,
            `cuda` or `cuda:INDEX`.
        precision: `fp32`, `bf16`, `fp16`, or `auto` for the fastest that keeps mAP within 0.15 of
            fp32's: fp16 on a GPU, bf16 on a CPU that multiplies such numbers, else fp32.
        batch: Images a forward takes at most; None lets the runtime choose; `auto` finds, on a GPU,
            the smallest that is nearly as fast as the largest, and keeps the finding.
        gpu_mem: Device memory that this process may hold, in bytes or as `2GiB`: all of it, the
            CUDA context and libraries included. What does not fit is an error here, not later.
        imgsz: Side of the full canvas, or (height, width); None is the model's own. What is no
            multiple of the model's stride is rounded up, with a word in the log.
        canvas: `auto`, `square`, `exact` or `HxW`.
        conf: Confidence that a detection must be above.
        iou: Largest overlap of two boxes of a class that both stay.
        max_det: Most detections per image.
        classes: Ids and names of the classes to report, None for all.
        agnostic_nms: Boxes suppress each other across classes.
        multi_label: Report a box once for every class above `conf`, as mAP is evaluated.
        nms: Head of a `.pt`: True the one that needs NMS, False the NMS-free one, None the
            NMS-free one where the model has it.
        task: What the model predicts, for a file that does not say.
        names: Class names, for a file that does not say.
        trust_model: Read a `.pt` with the ordinary unpickler, which may run code from the file.
        threads: CPU threads of the forward; None takes every CPU of this process.
        workers: Decode threads.
        limits: How large an image may be.
        max_delay_ms: See `EngineConfig`, as for all that follow.
        max_batch_pixels: See `EngineConfig`.
        queue: See `EngineConfig`.
        queue_bytes: See `EngineConfig`.
        stall_s: See `EngineConfig`.
        on_stage_death: See `EngineConfig`.
        images: How many images are to come, about; None for many. Few are better served by a
            runtime that starts sooner, where `runtime` is `auto`.

    Returns:
        A running engine. Close it, or use it in a `with` statement.

    Raises:
        BrimfulError: With what was expected, what came, and what to do.
    """
    check_name(runtime)
    overrides = SpecOverrides(task=task, names=None if names is None else tuple(names))
    options = ModelOptions(overrides=overrides, nms=nms, trust=trust_model, max_det=max_det)
    opened = None if model is None else open_model(model, options)
    device = _placed(device, runtime, opened)
    if gpu_mem is not None and device == "cpu":
        raise UsageError(
            "gpu_mem limits the memory of a GPU, and device is cpu; name a GPU, or leave it out"
        )
    postprocess = PostprocessConfig(
        conf=conf,
        iou=iou,
        max_det=max_det,
        agnostic_nms=agnostic_nms,
        multi_label=multi_label,
    ).reporting(classes)
    config = EngineConfig(
        postprocess=postprocess,
        canvas=canvas,
        imgsz=imgsz,
        limits=limits or DecodeLimits(),
        workers=workers,
        max_delay_ms=max_delay_ms,
        max_batch_pixels=max_batch_pixels,
        queue=queue,
        queue_bytes=queue_bytes,
        stall_s=stall_s,
        on_stage_death=on_stage_death,
    )
    job = JobSize(
        images=images, canvases=usual_canvases(canvas), threads=threads or available_cpus()
    )
    choice = choose(runtime, precision, opened, device, job)
    loaded = load_runtime(
        choice.runtime,
        opened,
        RuntimeOptions(
            device=device,
            precision=choice.precision,
            threads=threads,
            max_batch=None if batch == "auto" else batch,
            tune_batch=batch == "auto",
            memory=parse_bytes(gpu_mem) if isinstance(gpu_mem, str) else gpu_mem,
            policy=functools.partial(CanvasPolicy.for_model, canvas=canvas, imgsz=imgsz),
            postprocess=postprocess,
        ),
    )
    try:
        engine = Engine(loaded, config)
    except BaseException:
        loaded.close()
        raise
    asked = (imgsz, imgsz) if isinstance(imgsz, int) else imgsz
    if asked is not None and parse_canvas(canvas)[1] is None and engine.imgsz != tuple(asked):
        _log.warning(
            "imgsz %s is no multiple of %d, the model's stride: it is rounded up to %dx%d",
            imgsz,
            engine.spec.stride,
            *engine.imgsz,
        )
    if gpu_mem is not None:
        try:
            engine.warm_up()  # every canvas takes its memory now, or does not fit now
        except BaseException:
            engine.close()
            raise
    return engine


def _placed(device: str, runtime: str, model: Model | None) -> str:
    """Return the one device that a word stands for, and log what would use the machine better."""
    if device == "all":
        raise UsageError(
            "device all is for several engines: use brimful.cluster.pool.EnginePool, or name one"
        )
    placement = place(device, runtime, model)
    if placement.hint:
        _log.info("device %s: %s", device, placement.hint)
    return placement.devices[0]
