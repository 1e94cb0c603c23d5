"""The bundled model: a YOLO26n that knows the parts of the generated factory line."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

DEMO = "demo"
"""What `--model` calls it."""


def demo_model() -> Path:
    """Return the bundled ONNX file (detect, six classes, dynamic batch, height and width)."""
    return Path(str(files("brimful.demo").joinpath("yolo26n-factory.onnx")))


def resolve_model(name: str | Path | None) -> Path | None:
    """Return the file that a model's name stands for: `demo`, or the path itself."""
    if name is None:
        return None
    return demo_model() if str(name) == DEMO else Path(name)
