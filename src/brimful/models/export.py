"""Write a network as ONNX with dynamic batch, height and width, and its metadata.

The metadata keys are those that Ultralytics' exporter writes, so that other tools read the file
too.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from brimful.errors import ExportError
from brimful.extras import require
from brimful.models.checkpoint import Checkpoint, load_checkpoint
from brimful.models.signature import SpecOverrides
from brimful.spec import ModelSpec

OPSET = 17
"""The newest opset whose operators every supported runtime has had for years."""


def export_onnx(
    checkpoint: Path,
    output: Path,
    *,
    nms: bool | None = None,
    trust: bool = False,
    half_weights: bool = False,
) -> ModelSpec:
    """Convert a `.pt` checkpoint to ONNX.

    Args:
        checkpoint: The `.pt` file.
        output: The `.onnx` file to write.
        nms: Head selection, as in `load_checkpoint`.
        trust: Read the checkpoint with the ordinary unpickler.
        half_weights: Store weights as float16 with a cast after each: half the file, computed in
            float32 all the same.

    Returns:
        What the model is.
    """
    loaded = load_checkpoint(checkpoint, nms=nms, overrides=SpecOverrides(), trust=trust)
    write_onnx(loaded, output, half_weights=half_weights)
    return loaded.spec


def write_onnx(checkpoint: Checkpoint, output: Path, *, half_weights: bool = False) -> None:
    """Trace a loaded checkpoint and write it as ONNX.

    Raises:
        MissingExtraError: `onnx` is not installed.
        ExportError: The network cannot be traced.
    """
    onnx = require("onnx", feature="Writing ONNX", extra="ultralytics")
    import torch

    spec = checkpoint.spec
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, "output0": {0: "batch"}}
    if spec.head in ("raw", "yolov5"):
        axes["output0"][2 if spec.head == "raw" else 1] = "anchors"
    names = ["output0"]
    if spec.task == "segment":
        names.append("output1")
        axes["output1"] = {0: "batch", 2: "mask_height", 3: "mask_width"}
    # Batch 2 and unequal sides: a tracer cannot mistake them for each other or for constants.
    height, width = (224, 224) if spec.task == "classify" else (spec.stride * 8, spec.stride * 10)
    example = torch.zeros(2, spec.channels, height, width)
    buffer: Any = io.BytesIO()
    try:
        with _quiet(), torch.inference_mode():
            torch.onnx.export(
                checkpoint.network,
                (example,),
                buffer,
                input_names=["images"],
                output_names=names,
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        raise ExportError(f"the network cannot be written as ONNX: {error}") from error
    model = onnx.load_from_string(buffer.getvalue())
    if spec.head == "nms_free":
        _bound_topk(model, onnx)
    if half_weights:
        _halve_weights(model, onnx)
    for key, value in onnx_metadata(spec).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, str(output))


def onnx_metadata(spec: ModelSpec) -> dict[str, str]:
    """Return the metadata entries that describe a model, as text."""
    entries = {
        "task": spec.task,
        "stride": str(spec.stride),
        "imgsz": str(list(spec.imgsz)),
        "names": str(dict(enumerate(spec.names))),
        "channels": str(spec.channels),
        "batch": "1",
        "end2end": str(spec.head == "nms_free"),
    }
    if spec.kpt_shape is not None:
        entries["kpt_shape"] = str(list(spec.kpt_shape))
    return entries


def _bound_topk(model: Any, onnx: Any) -> None:
    """Let an NMS-free head return fewer rows where a small canvas has fewer anchors than that.

    The tracer keeps the row count of its example, and top-k fails on a shorter axis. All top-k of
    the head take the same count: the first picks anchors, the next orders their classes.
    """
    nodes = model.graph.node
    picks = [node for node in nodes if node.op_type == "TopK"]
    if not picks:
        return
    first = picks[0]
    axis = next((a.i for a in first.attribute if a.name == "axis"), -1)
    constant = onnx.numpy_helper.from_array
    model.graph.initializer.append(constant(np.array([axis], np.int64), "brimful.axis"))
    bound = [
        onnx.helper.make_node("Shape", [first.input[0]], ["brimful.shape"]),
        onnx.helper.make_node("Gather", ["brimful.shape", "brimful.axis"], ["brimful.anchors"]),
        onnx.helper.make_node("Min", ["brimful.anchors", first.input[1]], ["brimful.rows"]),
    ]
    position = list(nodes).index(first)
    replaced = {node.input[1] for node in picks[1:]} - {first.input[1]}
    for node in picks:
        node.input[1] = "brimful.rows"
    for offset, node in enumerate(bound):
        nodes.insert(position + offset, node)
    for kept in (nodes, model.graph.initializer):  # runtimes warn of a constant nobody reads
        for item in [item for item in kept if _name_of(item) in replaced]:
            kept.remove(item)


def _name_of(item: Any) -> str:
    """Return what a node or an initializer calls its value."""
    return str(item.output[0]) if hasattr(item, "output") else str(item.name)


def _halve_weights(model: Any, onnx: Any) -> None:
    """Store every large float32 initializer as float16 with a Cast back behind it."""
    casts = []
    for tensor in model.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), name + ".half"))
        casts.append(
            onnx.helper.make_node(
                "Cast", [name + ".half"], [name], name=name + ".cast", to=onnx.TensorProto.FLOAT
            )
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the tracer's notes on constants; they concern shapes that are meant to be dynamic."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
