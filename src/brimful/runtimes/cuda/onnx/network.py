"""OnnxNetwork: an ONNX file on a GPU, run by onnxruntime on the lanes' own streams."""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from brimful.cuda.captures import synchronize
from brimful.errors import ModelError, UsageError
from brimful.models.model import Model
from brimful.models.onnx_precision import arithmetic
from brimful.models.to_fp16 import to_fp16
from brimful.runtimes.cuda.onnx.forward import TYPES, OnnxForward, Port
from brimful.runtimes.cuda.onnx.provider import NO_GRAPH, ProviderTechniques, open_session
from brimful.runtimes.onnx import open_session as open_on_cpu
from brimful.runtimes.onnx import read_spec, takes_half
from brimful.runtimes.runtime import Precision
from brimful.runtimes.workers import ForwardWorkers
from brimful.spec import ModelSpec

T = TypeVar("T")


class OnnxNetwork:
    """An ONNX file, and the sessions that run it.

    Attributes:
        spec: What the model is.
        dtype: Of the images, as the file's input has it.
        input: What the file says of its input.
        outputs: And of each output.
        limit: Bytes of device memory that sessions opened from now on may take, each; None for no
            limit.
        techniques: What is turned on.
        graphs: Whether onnxruntime captures graphs, or why not.
    """

    fused = False
    recordable = False

    def __init__(
        self,
        model: Model,
        precision: Precision,
        device: Any,
        *,
        techniques: ProviderTechniques | None = None,
    ) -> None:
        """Read what the file is; sessions on the device are opened by `on`.

        Args:
            model: An `.onnx` file, or a `.pt` that is converted once.
            precision: What it shall compute in.
            device: A torch device; `cpu` runs the same way on the CPU, for tests.
            techniques: What to turn on.

        Raises:
            ModelError: The file cannot be read.
            UsageError: It computes in another precision, or nothing here does in this one.
            ExportError: It cannot be converted to fp16.
            MissingExtraError: What converts it is not installed.
        """
        self._precision = precision
        self._device = device
        self.techniques = techniques or ProviderTechniques()
        self._path = in_precision(model, precision)
        session = open_on_cpu(self._path, threads=1)
        self.spec: ModelSpec = read_spec(session, model)
        self.dtype: Any = torch.float16 if takes_half(session) else torch.float32
        (self.input,) = [Port.of(port) for port in session.get_inputs()]
        self.outputs = [Port.of(port) for port in session.get_outputs()]
        for port in self.outputs:
            if port.type not in TYPES:
                raise ModelError(
                    f"{self._path}: output {port.name} is {port.type}; expected one of "
                    f"{', '.join(TYPES)}"
                )
        self.limit: int | None = None
        self.graphs = "off"
        self._forwards: list[OnnxForward] = []
        # onnxruntime keeps cuBLAS and cuDNN handles, and captured graphs, per calling thread: one
        # thread makes all calls, so there is one set of them for each session.
        self._thread = ForwardWorkers(1, name="onnxruntime")

    def on(self, stream: Any) -> OnnxForward:
        """Open a session on a stream: one that was opened runs on no other.

        Raises:
            ModelError: onnxruntime cannot run the file.
            UsageError: The CUDA provider does not load.
            OutOfMemoryError: The weights do not fit.
        """
        forward = OnnxForward(self, self._device, stream)
        self._forwards.append(forward)
        return forward

    def open(self, stream: Any, dimensions: Mapping[str, int]) -> Any:
        """Open a session on a stream, with graphs if the model lets them be captured.

        Args:
            stream: A torch stream; None on the CPU.
            dimensions: Values of dimensions that the file names and leaves open.
        """

        def opened(techniques: ProviderTechniques) -> Any:
            return self.call(
                lambda: open_session(
                    self._path,
                    self._device,
                    stream,
                    precision=self._precision,
                    limit=self.limit,
                    dimensions=dimensions,
                    techniques=techniques,
                )
            )

        if not self.techniques.graphs or self._device.type != "cuda":
            return opened(replace(self.techniques, graphs=False))
        try:
            session = opened(self.techniques)
        except ModelError as error:
            if not NO_GRAPH.search(str(error)):
                raise
            self.graphs = "off: not every operator runs on the device"
            return opened(replace(self.techniques, graphs=False))
        self.graphs = "on"
        return session

    def release(self) -> None:
        """Close the sessions and give their memory back; nothing may be in flight."""
        if self._forwards and self._device.type == "cuda":
            synchronize(self._device)
        for forward in self._forwards:
            self.call(forward.close)
        self._forwards.clear()

    def close(self) -> None:
        """Close the sessions and the thread."""
        self.release()
        self._thread.close()

    def call(self, work: Callable[[], T]) -> T:
        """Run something on the thread that makes all of onnxruntime's calls, and wait for it."""
        told: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        job: Any = work
        self._thread.submit(job, lambda result, error, seconds=None: told.put((result, error)))
        result, error = told.get()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


def in_precision(model: Model, precision: Precision) -> Path:
    """Return a model as an ONNX file that computes in a precision, converting it where possible.

    Raises:
        UsageError: The file computes in another precision and cannot be had in this one.
        ModelError: It cannot be read.
        ExportError: It cannot be converted.
        MissingExtraError: What converts it is not installed.
    """
    if precision == "bf16":
        raise UsageError(
            "precision 'bf16' is not available with onnxruntime on CUDA; use fp16 or fp32, or "
            "runtime=torch with the .pt"
        )
    path = model.as_onnx()
    kind = arithmetic(path)
    if kind == precision or (kind == "int8" and precision == "fp32"):
        return path
    if (kind, precision) == ("fp32", "fp16"):
        return to_fp16(path)
    raise UsageError(
        f"{path} computes in {kind}, and precision {precision!r} was asked for; "
        + (
            f"use precision={kind}, or an export in {precision}"
            if kind == "fp16"
            else f"export it in {precision}"
        )
    )
