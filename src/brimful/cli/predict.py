"""`brimful predict`: a model and images, videos or lists of them, to detections."""

from __future__ import annotations

import functools
import io
from contextlib import ExitStack
from pathlib import Path

import click

from brimful.cli.choices import (
    parse_batch,
    parse_classes,
    parse_failures,
    parse_imgsz,
    parse_names,
    parse_switch,
    quantized,
)
from brimful.cli.defaults import resolve_defaults
from brimful.cli.job import run_job
from brimful.cli.pictures import SaveOptions, open_pictures
from brimful.cli.process import start_quietly
from brimful.cluster.start import start_engines
from brimful.demo.model import resolve_model
from brimful.engine.interpreter import collector_off, prepare_interpreter
from brimful.errors import UsageError
from brimful.load import load
from brimful.models.artifact import digest_of
from brimful.models.model import ModelOptions
from brimful.models.signature import SpecOverrides
from brimful.pictures.style import Style
from brimful.pictures.window import Window
from brimful.runtimes.choice import AnyPrecision
from brimful.runtimes.registry import NAMES
from brimful.runtimes.runtime import PRECISIONS
from brimful.sinks.formats import FORMATS
from brimful.sinks.open_sink import open_sink
from brimful.sources.address import without_password
from brimful.sources.open_source import open_source
from brimful.spec import TASKS, Task
from brimful.vision.decode import DecodeLimits

FAILURES = (
    "Failures allowed, as a number (the job stops once it is exceeded) or a share such as 5%. "
    "By default the job runs to its end and exits with 3 if anything failed."
)


@click.command()
@click.option("--model", help="A .pt, .onnx or .torchscript, an OpenVINO folder, or `demo`.")
@click.option(
    "--source",
    required=True,
    help="Image, folder, glob with **, .txt list, video, URL, number of a camera, or -.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Default: JSON lines on stdout, as with -; none where pictures are saved or shown.",
)
@click.option("--format", type=click.Choice(FORMATS), help="Default: by the output's suffix.")
@click.option("--imgsz", help="Side of the full canvas, or height,width. Default: the model's.")
@click.option("--canvas", default="auto", help="auto, square, exact or HxW.")
@click.option("--conf", default=0.25, help="Confidence a detection must be above.")
@click.option("--iou", default=0.7, help="Overlap above which NMS drops a box.")
@click.option("--max-det", default=300, help="Most detections per image.")
@click.option("--classes", help="Classes to keep, ids or names: 0,2 or person,car.")
@click.option("--agnostic-nms/--no-agnostic-nms", help="NMS across classes.")
@click.option(
    "--nms", help="Head of a .pt: false NMS-free, true with NMS. Default: NMS-free if any."
)
@click.option("--runtime", type=click.Choice(("auto", *NAMES)), default="auto")
@click.option("--device", default="auto", help="auto, all, cpu, 0 or cuda:0; several: 0,1,2,3.")
@click.option("--precision", type=click.Choice(("auto", *PRECISIONS)), default="auto")
@click.option("--half/--no-half", help="The same as precision=fp16.")
@click.option("--quantize", help="16 or 32: the same as precision=fp16 or fp32.")
@click.option("--batch", help="Most images in a forward, or auto. Default: what suits the device.")
@click.option("--gpu-mem", help="Device memory this may hold in all, such as 2GiB. Default: any.")
@click.option("--threads", type=int, help="CPU threads of the model. Default: all.")
@click.option("--workers", type=int, help="Decode threads. Default: one per CPU, at most 8.")
@click.option("--vid-stride", default=1, help="Every how many-th frame of a video.")
@click.option("--task", type=click.Choice(TASKS), help="For a model that does not say.")
@click.option(
    "--names",
    help="Class names, a,b,c or a file (lines or YAML), for a model that does not say.",
)
@click.option("--trust-model", is_flag=True, help="Read a .pt that may run code of its own.")
@click.option("--max-failures", help=FAILURES)
@click.option("--max-pixels", default=200_000_000, help="Largest image, in pixels.")
@click.option("--max-bytes", default=512 * 2**20, help="Largest image file, in bytes.")
@click.option("--resume/--no-resume", help="Go on with an interrupted job.")
@click.option("--overwrite/--no-overwrite", help="Replace an existing output.")
@click.option("--save/--no-save", help="Write images and videos with detections drawn in.")
@click.option("--save-crop/--no-save-crop", help="Write crops of the boxes, a folder a class.")
@click.option("--save-txt/--no-save-txt", help="Write YOLO label files into the folder labels.")
@click.option("--save-conf/--no-save-conf", help="Confidence in label files.")
@click.option(
    "--save-dir",
    type=click.Path(path_type=Path),
    help="Folder of pictures. Default: runs/TASK/predict, predict2 and so on.",
)
@click.option(
    "--project", type=click.Path(path_type=Path), help="In place of runs/TASK in that default."
)
@click.option("--name", help="In place of predict in that default.")
@click.option("--exist-ok/--no-exist-ok", help="That folder itself, though it exists.")
@click.option("--show/--no-show", help="Show results in a window.")
@click.option("--show-labels/--no-show-labels", default=True, help="Names of classes.")
@click.option("--show-conf/--no-show-conf", default=True, help="Confidence behind the names.")
@click.option("--show-boxes/--no-show-boxes", default=True, help="Boxes and their labels.")
@click.option("--line-width", type=int, help="In pixels. Default: by the size of the image.")
@click.option("--quiet/--no-quiet", help="No progress and no summary.")
@click.option("--verbose/--no-verbose", default=True, help="The opposite of --quiet.")
def predict(
    *,
    model: str | None,
    source: str,
    output: Path | None,
    format: str | None,
    imgsz: str | None,
    canvas: str,
    conf: float,
    iou: float,
    max_det: int,
    classes: str | None,
    agnostic_nms: bool,
    nms: str | None,
    runtime: str,
    device: str,
    precision: AnyPrecision,
    half: bool,
    quantize: str | None,
    batch: str | None,
    gpu_mem: str | None,
    threads: int | None,
    workers: int | None,
    vid_stride: int,
    task: Task | None,
    names: str | None,
    trust_model: bool,
    max_failures: str | None,
    max_pixels: int,
    max_bytes: int,
    resume: bool,
    overwrite: bool,
    save: bool,
    save_crop: bool,
    save_txt: bool,
    save_conf: bool,
    save_dir: Path | None,
    project: Path | None,
    name: str | None,
    exist_ok: bool,
    show: bool,
    show_labels: bool,
    show_conf: bool,
    show_boxes: bool,
    line_width: int | None,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run a model on images and write the detections.

    Exit codes: 0 done, 1 internal error, or standard output or a disk is full, 2 wrong usage,
    3 more inputs failed than allowed, 4 model, 5 a conversion failed, 6 memory budget,
    130 interrupted (go on with --resume).
    """
    quiet = quiet or not verbose
    saving = SaveOptions(
        save=save,
        save_crop=save_crop,
        save_txt=save_txt,
        save_conf=save_conf,
        save_dir=save_dir,
        project=project,
        name=name,
        exist_ok=exist_ok,
    )
    if show and saving.draws:
        raise UsageError("--show and --save or --save-crop do not go together; give one of them")
    silent = output is None and (saving.any or show)
    output = None if output == Path("-") else output
    style = Style(labels=show_labels, conf=show_conf, boxes=show_boxes, line_width=line_width)
    limit = parse_failures(max_failures)
    chosen = resolve_model(model)
    overrides = SpecOverrides(task=task, names=parse_names(names))
    head = parse_switch(nms, "--nms")
    defaults = resolve_defaults(
        chosen,
        ModelOptions(overrides=overrides, nms=head, trust=trust_model, max_det=max_det),
        device=device,
        runtime=runtime,
        precision=quantized(precision, quantize),
        half=half,
        source=source,
        canvas=canvas,
        threads=threads,
        resumes=output if resume else None,
    )
    loading = functools.partial(
        load,
        chosen,
        runtime=defaults.choice.runtime,
        precision=defaults.choice.precision,
        batch=parse_batch(batch),
        gpu_mem=gpu_mem,
        imgsz=parse_imgsz(imgsz),
        canvas=canvas,
        conf=conf,
        iou=iou,
        max_det=max_det,
        classes=parse_classes(classes),
        agnostic_nms=agnostic_nms,
        nms=head,
        task=task,
        names=overrides.names,
        trust_model=trust_model,
        limits=DecodeLimits(max_pixels=max_pixels, max_bytes=max_bytes),
    )
    start = functools.partial(start_quietly, loading, quiet=quiet)
    with collector_off():
        predictor = start_engines(start, defaults.devices, chosen, threads=threads, workers=workers)
    with predictor as engine, ExitStack() as stack:
        window = Window(style) if show else None
        if window is not None:
            stack.callback(window.close)
        job = {
            "model": None if chosen is None else digest_of(Path(chosen)),
            "source": without_password(source),
            "vid_stride": vid_stride,
            "conf": conf,
            "iou": iou,
            "max_det": max_det,
            "classes": classes,
            "agnostic_nms": agnostic_nms,
            "nms": nms,
            "imgsz": imgsz,
            "canvas": canvas,
            "precision": engine.describe()["precision"],
            "runtime": engine.describe()["runtime"],
            **saving.facts(),
        }
        sink = open_sink(
            output,
            format,
            job=job,
            names=engine.spec.names,
            task=engine.spec.task,
            resume=resume,
            overwrite=overwrite,
            silent=silent,
        )
        try:
            # Unbuffered: the lock of a buffer that a thread waits in would abort the exit.
            stdin = io.FileIO(0, closefd=False) if source == "-" else None
            images = open_source(
                source,
                vid_stride=vid_stride,
                done=sink.done,
                stdin=stdin,
                max_bytes=max_bytes,
                keeps_fetched=saving.draws,
            )
            pictures = open_pictures(
                saving,
                style=style,
                source=source,
                task=engine.spec.task,
                vid_stride=vid_stride,
                earlier=sink,
                overwrite=overwrite,
            )
        except BaseException:
            sink.abandon()
            raise
        prepare_interpreter()
        run_job(
            engine,
            images,
            sink,
            limit,
            pictures=pictures,
            window=window,
            output=output,
            quiet=quiet,
            hint=defaults.hint,
        )
