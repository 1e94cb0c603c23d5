"""The `onnxruntime` runtime on the CPU; on a GPU it is `cuda/onnx_runtime.py`.

Each worker thread runs its own forward on one session, and the session's own threads are shared
out among them: two forwards of one thread each beat one forward of two threads, because nothing
in a small network scales perfectly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from brimful.cpus import available_cpus
from brimful.errors import ModelError, UsageError
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


class OnnxRuntime:
    """Executes a model with onnxruntime's CPU provider."""

    name = "onnxruntime"
    input_format: InputFormat = "chw_f32"
    prefetch = 1
    accepts_encoded = None
    accepts_frame = None
    pinned_for = None
    video: VideoDevice | None = None

    def __init__(self, model: Model, options: RuntimeOptions) -> None:
        """Load a model file.

        Raises:
            ModelError: onnxruntime cannot load it.
            UsageError: A device or precision that this runtime does not have.
        """
        _check(options)
        path = model.as_onnx()
        cpus = options.threads or available_cpus()
        self._session = open_session(path, threads=1)
        self.spec: ModelSpec = read_spec(self._session, model)
        self._half = takes_half(self._session)
        self.max_batch = self.spec.fixed_batch or options.max_batch or 1
        self.concurrency = self.partial_batches_below = cpus
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._workers = ForwardWorkers(self.concurrency, name="onnxruntime")

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> HostSlot:
        """Make a slot; a model with a fixed batch gets that capacity whatever is asked."""
        count = self.spec.fixed_batch or capacity or self.max_batch
        return HostSlot(canvas, new_input(self.spec, self.input_format, canvas, count))

    def prepare(self, canvas: Size) -> None:
        """Do nothing: slots bring all that forwards need."""

    def submit(self, slot: Slot, count: int, done: Done, params: Params = None) -> None:
        """Start the forward of the first `count` images; a fixed batch runs whole."""
        inputs = slot.inputs if self.spec.fixed_batch else slot.inputs[:count]

        def forward() -> Outputs:
            feed = inputs.astype(np.float16) if self._half else inputs
            outputs = self._session.run(self._outputs, {self._input: feed})
            return [np.asarray(output, np.float32) for output in outputs]

        self._workers.submit(forward, done)

    def describe(self) -> dict[str, str | int]:
        """Return the version, provider and threads."""
        import onnxruntime

        return {
            "runtime": self.name,
            "version": onnxruntime.__version__,
            "provider": self._session.get_providers()[0],
            "device": "cpu",
            "precision": "fp32",
            "forwards": self.concurrency,
            "threads": self.concurrency,
        }

    def close(self) -> None:
        """Stop the threads and drop the session."""
        self._workers.close()
        self._session = None


def open_session(path: Path, *, threads: int) -> Any:
    """Open an ONNX file with onnxruntime's CPU provider.

    Raises:
        ModelError: It is no ONNX model, or one that onnxruntime cannot run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Waiting threads must not burn the CPUs that decode needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise ModelError(f"{path} cannot be loaded by onnxruntime: {error}") from error


def takes_half(session: Any) -> bool:
    """Tell whether the input of an open session, which `read_spec` has checked, is float16."""
    return bool(session.get_inputs()[0].type == "tensor(float16)")


def read_spec(session: Any, model: Model) -> ModelSpec:
    """Read the ModelSpec of an open session.

    Raises:
        ModelError: It is no YOLO model, or its input is no float32 or float16.
    """
    origin = str(model.path)
    metadata = parse_metadata(session.get_modelmeta().custom_metadata_map, origin=origin)
    for port in session.get_inputs():
        check_input_type(port.type, origin=origin)
    signature = Signature(
        inputs=tuple(_shape(tensor.shape) for tensor in session.get_inputs()),
        outputs=tuple(_shape(tensor.shape) for tensor in session.get_outputs()),
    )
    if not signature.tells_layout and len(signature.inputs) == 1:
        size = signature.probe_size(metadata)
        try:
            signature = _probed(session, signature, size)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{origin} cannot run an input of {size}: {error}") from error
    return spec_from(signature, metadata, model.options.overrides, origin=origin)


def _probed(session: Any, signature: Signature, size: Size) -> Signature:
    """Learn output shapes from one forward: shape inference gives up behind a top-k."""
    port = session.get_inputs()[0]
    dtype = np.float16 if port.type == "tensor(float16)" else np.float32
    batch, channels = signature.inputs[0][0] or 1, signature.inputs[0][1] or 3
    outputs = session.run(None, {port.name: np.zeros((batch, channels, *size), dtype)})
    return Signature(signature.inputs, tuple((None, *output.shape[1:]) for output in outputs))


def _shape(shape: list[Any]) -> Shape:
    return tuple(side if isinstance(side, int) and side > 0 else None for side in shape)


def _check(options: RuntimeOptions) -> None:
    if options.device != "cpu":
        raise UsageError(
            f"device {options.device!r} is unknown to onnxruntime; expected cpu, cuda or cuda:INDEX"
        )
    if options.precision != "fp32":
        raise UsageError(
            f"precision {options.precision!r} is not available with onnxruntime on the CPU; "
            "use fp32, or runtime=openvino for bf16"
        )
