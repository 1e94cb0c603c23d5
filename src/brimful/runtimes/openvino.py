"""The `openvino` runtime: several infer requests in flight, normalisation inside the graph.

One network is compiled per canvas and capacity, with static shapes (a batch above 1 leaves its
batch dimension open, so that a partial batch does not pay for a full one). The slot's uint8
pixels are the request's input memory: what the letterbox writes is what the network reads.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brimful.cpus import available_cpus
from brimful.errors import ModelError, UsageError
from brimful.extras import require
from brimful.memory.trim import trim
from brimful.models.metadata import parse_metadata
from brimful.models.model import Model
from brimful.models.signature import Shape, Signature, check_input_type, spec_from
from brimful.runtimes.runtime import (
    Done,
    HostSlot,
    InputFormat,
    Outputs,
    Params,
    RuntimeOptions,
    Slot,
    new_input,
)
from brimful.runtimes.video import VideoDevice
from brimful.runtimes.workers import ForwardWorkers
from brimful.spec import ModelSpec, Size

COMPILED_KEPT = 16
"""Compiled networks kept; the least recently used goes (`--canvas exact` knows no bound)."""

_PRECISION = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


@dataclass(slots=True)
class OpenVinoSlot(HostSlot):
    """An infer request and the host memory it reads."""

    request: Any
    compiled: Any
    shares_memory: bool


class OpenVinoRuntime:
    """Executes a model with OpenVINO on the CPU."""

    name = "openvino"
    input_format: InputFormat = "hwc_u8"
    prefetch = 1
    accepts_encoded = None
    accepts_frame = None
    pinned_for = None
    video: VideoDevice | None = None

    def __init__(self, model: Model, options: RuntimeOptions) -> None:
        """Read a model file; networks are compiled as canvases come.

        Raises:
            MissingExtraError: openvino is not installed.
            ModelError: OpenVINO cannot read the model.
            UsageError: A device or precision that this machine does not have.
        """
        ov = require("openvino", feature="The openvino runtime", extra="openvino")
        self._ov = ov
        self._core = ov.Core()
        capabilities = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        _check(options, capabilities)
        self._options = options
        self._threads = options.threads or available_cpus()
        source = model.path if model.format == "openvino" else model.as_onnx()
        self._network = self._read(source)
        _replace_slices(ov, self._network)
        self.spec: ModelSpec = self._read_spec(model)
        self.max_batch = self.spec.fixed_batch or options.max_batch or 1
        self.concurrency = self.partial_batches_below = self._threads
        self._compiled: OrderedDict[tuple[Size, int], Future[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._workers = ForwardWorkers(self.concurrency, name=self.name)

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> OpenVinoSlot:
        """Make a slot; compiles the network for its canvas the first time."""
        count = self.spec.fixed_batch or capacity or self.max_batch
        compiled = self._compile(canvas, count)
        inputs = new_input(self.spec, self.input_format, canvas, count)
        request = compiled.create_infer_request()
        dynamic = compiled.input(0).partial_shape.is_dynamic
        if not dynamic:
            request.set_input_tensor(0, self._ov.Tensor(inputs, shared_memory=True))
        return OpenVinoSlot(canvas, inputs, request, compiled, not dynamic)

    def prepare(self, canvas: Size) -> None:
        """Do nothing: slots bring all that forwards need."""

    def submit(self, slot: Slot, count: int, done: Done, params: Params = None) -> None:
        """Start the forward of the first `count` images; a static batch runs whole."""
        assert isinstance(slot, OpenVinoSlot)
        self._workers.submit(lambda: self._forward(slot, count), done)

    def describe(self) -> dict[str, str | int]:
        """Return the version, precision, streams and threads."""
        return {
            "runtime": self.name,
            "version": str(self._ov.__version__),
            "device": "cpu",
            "precision": self._options.precision,
            "forwards": self.concurrency,
            "threads": self._threads,
        }

    def close(self) -> None:
        """Stop the threads and drop every compiled network."""
        self._workers.close()
        with self._lock:
            self._compiled.clear()
        self._network = None

    def _forward(self, slot: OpenVinoSlot, count: int) -> Outputs:
        """Run the request and return views of its own output memory."""
        request = slot.request
        if not slot.shares_memory:
            request.set_input_tensor(0, self._ov.Tensor(slot.inputs[:count], shared_memory=True))
        # Not a callback: OpenVINO calls none when the forward fails.
        request.start_async()
        request.wait()
        return [np.asarray(tensor.data, np.float32) for tensor in request.output_tensors]

    def _read(self, source: Path) -> Any:
        path = source if source.is_file() else sorted(source.glob("*.xml"))[0]
        try:
            return self._core.read_model(str(path))
        except Exception as error:
            raise ModelError(f"{path} cannot be read by OpenVINO: {error}") from error

    def _read_spec(self, model: Model) -> ModelSpec:
        if model.format == "openvino":
            raw = _folder_metadata(model.path)
        else:
            raw = _onnx_metadata(self._network)
        origin = str(model.path)
        for port in self._network.inputs:
            check_input_type(port.element_type.get_type_name(), origin=origin)
        signature = Signature(
            inputs=tuple(_shape(port.partial_shape) for port in self._network.inputs),
            outputs=tuple(_shape(port.partial_shape) for port in self._network.outputs),
        )
        metadata = parse_metadata(raw, origin=origin)
        if not signature.tells_layout and len(signature.inputs) == 1:
            # Shape inference gives up behind a top-k while height and width are open.
            probe = self._network.clone()
            batch, channels = signature.inputs[0][0] or 1, signature.inputs[0][1] or 3
            size = signature.probe_size(metadata)
            try:
                probe.reshape([batch, channels, *size])
            except Exception as error:  # OpenVINO's exceptions share no base class
                raise ModelError(f"{origin} cannot run an input of {size}: {error}") from error
            shapes = (_shape(port.partial_shape) for port in probe.outputs)
            signature = Signature(signature.inputs, tuple((None, *shape[1:]) for shape in shapes))
        return spec_from(signature, metadata, model.options.overrides, origin=origin)

    def _compile(self, canvas: Size, capacity: int) -> Any:
        """Return the network of a canvas.

        Who asks for it first compiles it, whoever else asks waits, and another canvas is compiled
        by another thread meanwhile: a compilation keeps one CPU busy.
        """
        key = (canvas, capacity)
        with self._lock:
            found = self._compiled.get(key)
            mine = found is None
            if found is None:
                found = self._compiled[key] = Future()
                while len(self._compiled) > COMPILED_KEPT:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(key)
        if mine:
            try:
                found.set_result(self._build(canvas, capacity))
            except BaseException as error:
                with self._lock:
                    if self._compiled.get(key) is found:  # who asks again tries again
                        del self._compiled[key]
                found.set_exception(error)
        return found.result()

    def _build(self, canvas: Size, capacity: int) -> Any:
        try:
            return self._compiled_for(canvas, capacity)
        except Exception as error:  # OpenVINO's exceptions share no base class
            raise ModelError(
                f"OpenVINO cannot compile the network for a canvas of {canvas}: {error}. Export "
                "the model again, with dynamic=True if it has to run at other sizes than its own"
            ) from error

    def _compiled_for(self, canvas: Size, capacity: int) -> Any:
        ov = self._ov
        network = self._network.clone()
        batch = ov.Dimension(capacity)
        if capacity > 1 and self.spec.fixed_batch is None:
            batch = ov.Dimension(1, capacity)
        shape = ov.PartialShape([batch, self.spec.channels, *canvas])
        if network.input(0).partial_shape.is_dynamic:
            network.reshape({0: shape})
        network = self._with_preprocessing(network)
        compiled = self._core.compile_model(
            network,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": _PRECISION[self._options.precision],
                "NUM_STREAMS": str(self.concurrency),
                "INFERENCE_NUM_THREADS": str(self._threads),
                "ENABLE_CPU_PINNING": False,  # decode threads share these CPUs
            },
        )
        del network
        trim()
        return compiled

    def _with_preprocessing(self, network: Any) -> Any:
        """Put BGR to RGB, uint8 to float, and the division by 255 into the graph."""
        from openvino.preprocess import ColorFormat, PrePostProcessor

        ov = self._ov
        processor = PrePostProcessor(network)
        steps = processor.input().preprocess()
        tensor = processor.input().tensor()
        tensor.set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.convert_element_type(ov.Type.f32)
        if self.spec.channels == 3:
            tensor.set_color_format(ColorFormat.BGR)
            steps.convert_color(ColorFormat.RGB)
        steps.scale(255.0)
        processor.input().model().set_layout(ov.Layout("NCHW"))
        return processor.build()


def _replace_slices(ov: Any, network: Any) -> None:
    """Replace each leading Slice in front of a GatherElements by a split, which does the same.

    OpenVINO drops such a Slice ("indices stay within it anyway") and then refuses its own graph,
    since data and indices no longer match in the sliced dimension. The NMS-free heads of segment,
    pose and obb models have one.
    """
    opset = ov.opset13
    for node in network.get_ordered_ops():
        if node.get_type_name() != "Slice":
            continue
        readers = node.output(0).get_target_inputs()
        gathers = any(
            reader.get_node().get_type_name() == "GatherElements" and reader.get_index() == 0
            for reader in readers
        )
        inputs = [source.get_node() for source in node.input_values()]
        known = (1, 2, 4)  # start, stop, axes; the step is computed
        if (
            not gathers
            or len(inputs) < 5
            or any(inputs[i].get_type_name() != "Constant" for i in known)
        ):
            continue
        start, stop, axis = (inputs[i].data.ravel().tolist() for i in known)
        side = node.output(0).partial_shape[axis[0]]
        if start == [0] and len(axis) == 1 and side.is_static and [side.get_length()] == stop:
            parts = opset.variadic_split(node.input_value(0), axis[0], [stop[0], -1])
            node.output(0).replace(parts.output(0))


def _shape(shape: Any) -> Shape:
    return tuple(side.get_length() if side.is_static else None for side in shape)


def _onnx_metadata(network: Any) -> dict[str, Any]:
    """Return the metadata entries of an ONNX file, which OpenVINO keeps in the network."""
    info = network.get_rt_info()
    if "framework" not in info:
        return {}
    return {key: value.astype(str) for key, value in info["framework"].items()}


def _folder_metadata(folder: Path) -> dict[str, Any]:
    """Return the metadata of an exported OpenVINO folder, or of the folder of an .xml file."""
    path = (folder if folder.is_dir() else folder.parent) / "metadata.yaml"
    if not path.exists():
        return {}
    yaml = require("yaml", feature="Reading an OpenVINO folder's metadata", extra="openvino")
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise ModelError(f"{path} should hold keys and values, and holds {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items()}


def _check(options: RuntimeOptions, capabilities: list[str]) -> None:
    if options.device != "cpu":
        raise UsageError(
            f"device {options.device!r} is not available with the openvino runtime; use device=cpu"
        )
    if options.precision == "bf16" and "BF16" not in capabilities:
        raise UsageError(
            "precision 'bf16' was asked for, but this CPU computes no bfloat16 "
            f"(it has {', '.join(capabilities)}); use fp32"
        )
    if options.precision == "fp16" and "FP16" not in capabilities:
        raise UsageError(
            "precision 'fp16' was asked for, but this CPU computes no float16 "
            f"(it has {', '.join(capabilities)}); use fp32"
        )
