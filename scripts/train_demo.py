"""Train the bundled demo model: a YOLO26n from scratch on generated pictures of a factory line.

    python scripts/train_demo.py --out build/demo --device 0 --workers 16

Generates the pictures, trains with Ultralytics' own trainer, keeps the best checkpoint as
`best.pt` in --out (copied whenever it improves, so that a run cut short leaves one), and exports
it to `yolo26n-factory.onnx`, its weights stored as float16. Nothing is downloaded: Ultralytics is
told that there is no network, its label font is stood in for, and mixed precision is bf16, the
mode whose self-test needs no weights.

The bundled model came from one run on one NVIDIA H200 with 16 CPU cores (Python 3.12, torch
2.11.0, Ultralytics 8.4.190; 8 minutes, of which the pictures took 11 seconds):

    python scripts/train_demo.py --out build/demo --device 0 --workers 16 --images 6000 \
        --val-images 400 --epochs 50 --minutes 7.4 --batch 64

7.4 minutes came to 53 epochs there; the mosaic was closed for the last 12. On another machine
leave out --minutes and give --epochs 53. The order of the GPU's sums is not fixed, so a repeated
run gives other weights of about the same accuracy, which is in
benchmarks/results/demo_accuracy.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TRAIN_SEED, VAL_SEED = 1, 2
"""Seeds of the two sets; the held-out set of benchmarks/demo_accuracy.py has another."""


def main() -> None:
    """Generate, train, export."""
    options = parse()
    began = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    work = options.work or Path(tempfile.mkdtemp(prefix="brimful-demo-"))
    data = generate(work, options)
    log(f"{options.images} + {options.val_images} images after {time.monotonic() - began:.0f} s")
    best = train(data, work, options)
    log(f"trained after {time.monotonic() - began:.0f} s: {best}")
    if options.export:
        from brimful.models.export import export_onnx

        model = options.out / "yolo26n-factory.onnx"
        export_onnx(best, model, half_weights=True)
        log(f"exported: {model}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for best.pt and the ONNX")
    parser.add_argument("--work", type=Path, help="folder for the pictures (default: temporary)")
    parser.add_argument("--images", type=int, default=6000, help="training pictures")
    parser.add_argument("--val-images", type=int, default=400, help="pictures that pick the best")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument(
        "--minutes", type=float, help="train this long instead of a number of epochs"
    )
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="0", help="'cpu' or the number of a GPU")
    parser.add_argument("--workers", type=int, default=16, help="processes that draw and load")
    parser.add_argument("--optimizer", default="MuSGD", choices=["MuSGD", "AdamW", "SGD"])
    parser.add_argument("--lr0", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0, help="of the weights and augmentation")
    parser.add_argument("--export", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def generate(work: Path, options: argparse.Namespace) -> Path:
    """Write both sets with YOLO labels; return the data.yaml that names them."""
    from brimful.demo.dataset import write_dataset
    from brimful.demo.scene import CLASSES

    sets = {"train": (options.images, TRAIN_SEED), "val": (options.val_images, VAL_SEED)}
    for name, (images, seed) in sets.items():
        write_dataset(
            work / name, images, seed=seed, workers=max(1, options.workers), layout="yolo"
        )
    names = "".join(f"  {i}: {name}\n" for i, name in enumerate(CLASSES))
    data = work / "data.yaml"
    data.write_text(
        f"path: {work.resolve()}\ntrain: train/images\nval: val/images\nnames:\n{names}"
    )
    return data


def train(data: Path, work: Path, options: argparse.Namespace) -> Path:
    """Train; return the best checkpoint, copied to --out."""
    cut_network(work / "config")
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    best = options.out / "best.pt"

    class Trainer(DetectionTrainer):  # type: ignore[misc]
        """The stock trainer, less its need for polars, which is for a copy of the log only."""

        def read_results_csv(self) -> dict[str, Any]:
            return {}

    def keep(trainer: DetectionTrainer) -> None:
        if trainer.best.exists():
            shutil.copy2(trainer.best, best)
        log_file = trainer.save_dir / "results.csv"
        if log_file.exists():
            shutil.copy2(log_file, options.out / "results.csv")

    model = YOLO("yolo26n.yaml")
    for event in ("on_model_save", "on_train_end"):
        model.add_callback(event, keep)
    gpu = options.device != "cpu"
    model.train(
        trainer=Trainer,
        data=str(data),
        project=str(work / "runs"),
        name="demo",
        exist_ok=True,
        pretrained=False,
        epochs=options.epochs,
        time=options.minutes / 60 if options.minutes else None,
        imgsz=options.imgsz,
        batch=options.batch,
        device=options.device,
        workers=options.workers,
        seed=options.seed,
        deterministic=False,
        cache="ram",
        # mixed precision in the mode that is not tried out on downloaded weights first
        amp="bf16" if gpu else False,
        plots=False,
        val=True,
        patience=0,
        optimizer=options.optimizer,
        lr0=options.lr0,
        lrf=0.01,
        cos_lr=True,
        momentum=0.9,
        weight_decay=0.0005,
        warmup_epochs=2.0,
        warmup_bias_lr=0.0,
        # the generator varies light, turn and scale itself; this only widens it a little
        hsv_h=0.01,
        hsv_s=0.3,
        hsv_v=0.25,
        degrees=0.0,
        translate=0.08,
        scale=0.3,
        fliplr=0.5,
        flipud=0.5,
        mosaic=0.5,
        close_mosaic=max(1, options.epochs // 4),
        erasing=0.0,
    )
    metrics = {key: float(value) for key, value in (model.trainer.metrics or {}).items()}
    (options.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    log(json.dumps(metrics))
    return best


def cut_network(config: Path) -> None:
    """Keep Ultralytics from the network; to be called before it is imported."""
    os.environ.update(
        YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(config.resolve())
    )
    if "ultralytics" in sys.modules:
        raise RuntimeError("ultralytics was imported before its network was cut")
    import matplotlib

    # any font will do for labels that are not drawn: without a file of this name it fetches one
    font = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    (config / "Ultralytics").mkdir(parents=True, exist_ok=True)
    shutil.copy2(font, config / "Ultralytics" / "Arial.ttf")


def log(text: str) -> None:
    """Print a line at once, also into a pipe."""
    print(f"train_demo: {text}", flush=True)


if __name__ == "__main__":
    main()
