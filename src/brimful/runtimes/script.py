"""A TorchScript file: read, and known by its metadata and by running it."""

from __future__ import annotations

import json
import warnings
from typing import Any

from brimful.errors import ModelError
from brimful.extras import require
from brimful.models.metadata import parse_metadata
from brimful.models.model import Model
from brimful.models.signature import Shape, Signature, spec_from
from brimful.spec import ModelSpec

MAX_BATCH = 1024
"""The largest batch that a file is tried with to learn its shapes."""

_PASSING = ("to", "float", "half", "contiguous", "clone", "detach", "permute", "flip", "type_as")
"""Operators of TorchScript that leave the values of pixels as they are."""


def load_script(torch: Any, model: Model) -> tuple[Any, ModelSpec]:
    """Read a TorchScript file and learn its shapes by running it.

    Raises:
        ModelError: It cannot be read or run, or it is no YOLO model.
        MissingExtraError: It calls an operator of torchvision, which is not installed.
    """
    network, text = _read(torch, model)
    try:
        raw = json.loads(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{model.path}: its config.txt is no JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ModelError(f"{model.path}: its config.txt should hold keys and values")
    if _normalises(torch, network):
        raise ModelError(
            f"{model.path}: expected a network of pixels from 0 to 1, found one that divides its "
            "input itself. Export it without pixel normalisation, as Ultralytics does"
        )
    metadata = parse_metadata(raw, origin=str(model.path))
    size = metadata.imgsz or (640, 640)
    channels = metadata.channels or 3
    batch = _batch(raw, model)
    dynamic = isinstance(raw.get("args"), dict) and raw["args"].get("dynamic") is True
    outputs = _run_once(torch, network, model, (batch, channels, *size))
    # A traced network has its anchors baked in for one size; the batch is free unless said.
    shapes: list[Shape] = [(None, *output.shape[1:]) for output in outputs]
    fixed_batch = None
    if not dynamic:
        try:
            more = _run_once(torch, network, model, (batch + 1, channels, *size))
        except ModelError:
            fixed_batch = batch
        else:
            if any(len(output) != batch + 1 for output in more):
                fixed_batch = batch
    signature = Signature(
        inputs=((fixed_batch, channels, *((None, None) if dynamic else size)),),
        outputs=tuple(shapes),
    )
    return network, spec_from(signature, metadata, model.options.overrides, origin=str(model.path))


def _batch(raw: dict[str, Any], model: Model) -> int:
    """Return the batch that the file was traced with."""
    said = str(raw.get("batch", 1))
    batch = int(said) if said.isdecimal() and len(said) < 9 else 0
    if not 0 < batch <= MAX_BATCH:
        raise ModelError(
            f"{model.path}: its metadata key 'batch' should be a number from 1 to {MAX_BATCH}, but "
            f"is {said!r:.80}"
        )
    return batch


def _read(torch: Any, model: Model) -> tuple[Any, str]:
    """Return the network in eval mode and the text of its metadata."""

    def read() -> tuple[Any, str]:
        extra = {"config.txt": ""}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit is on its way out
            network = torch.jit.load(str(model.path), map_location="cpu", _extra_files=extra)
            return network.eval(), extra["config.txt"]

    try:
        try:
            return read()
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            # NMS in the graph is torchvision's operator, which exists once that is imported.
            require("torchvision", feature="A TorchScript file with NMS inside", extra="torch")
            return read()
    except (RuntimeError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise ModelError(
            f"{model.path} cannot be read as TorchScript: {_first_line(error)}"
        ) from error


def _normalises(torch: Any, network: Any) -> bool:
    """Tell whether the first thing that happens to the pixels is a division by about 255."""
    graph = network.graph.copy()
    torch._C._jit_pass_inline(graph)
    inputs = list(graph.inputs())  # the module itself, then the images
    readers: list[Any] = [use.user for value in inputs[1:2] for use in value.uses()]
    while readers:
        node = readers.pop()
        name = node.kind().partition("::")[2].rstrip("_")
        if name in ("div", "true_divide", "mul"):
            factor = [value.toIValue() for value in node.inputs()][1]
            factor = factor.item() if hasattr(factor, "item") and factor.numel() == 1 else factor
            if isinstance(factor, int | float) and factor > 0:
                scale = factor if name == "mul" else 1 / factor
                if scale < 1 / 100:
                    return True
        elif name in _PASSING:
            readers += [use.user for use in node.output().uses()]
    return False


def _run_once(torch: Any, network: Any, model: Model, shape: tuple[int, ...]) -> Any:
    """Return the outputs for blank images of a shape."""
    try:
        with torch.inference_mode():
            out = network(torch.zeros(shape))
    except Exception as error:  # what a network raises is its own
        raise ModelError(
            f"{model.path} cannot run an input of shape {shape}: {_last_line(error)}"
        ) from error
    outputs = out if isinstance(out, tuple | list) else (out,)
    found = [
        str(tuple(output.shape)) if isinstance(output, torch.Tensor) else type(output).__name__
        for output in outputs
    ]
    if not outputs or not all(isinstance(o, torch.Tensor) and o.ndim for o in outputs):
        raise ModelError(
            f"{model.path}: expected a tensor or several as output, their first axis the batch; "
            f"found {', '.join(found) or 'none'}"
        )
    return outputs


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()[::-1]), type(error).__name__)
