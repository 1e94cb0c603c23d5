"""OnnxForward: an ONNX file as it runs on one stream.

Inputs and outputs are PyTorch's tensors, bound by their addresses, so nothing is copied to the
host and nothing waits: a forward is queued behind the letterbox, and the selection behind it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor

from brimful.cuda.memory import zeros
from brimful.errors import ModelError
from brimful.runtimes.cuda.onnx.provider import running_failed

if TYPE_CHECKING:
    from brimful.runtimes.cuda.onnx.network import OnnxNetwork

TYPES: dict[str, tuple[Any, Any]] = {
    "tensor(float)": (torch.float32, np.float32),
    "tensor(float16)": (torch.float16, np.float16),
    "tensor(double)": (torch.float64, np.float64),
    "tensor(int32)": (torch.int32, np.int32),
    "tensor(int64)": (torch.int64, np.int64),
    "tensor(uint8)": (torch.uint8, np.uint8),
    "tensor(bool)": (torch.bool, np.bool_),
}
"""onnxruntime's names of tensor types, as PyTorch's and as numpy's, which binding wants."""

NO_CAPTURE = "-1"
"""Graph id of a forward that shall not be captured."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output, as the file describes it.

    Attributes:
        name: Its name.
        type: onnxruntime's name of its type.
        shape: Its sides; a name or None for one that is open.
    """

    name: str
    type: str
    shape: tuple[int | str | None, ...]

    @classmethod
    def of(cls, described: Any) -> Port:
        """Copy what a session describes: its own description would keep the session alive."""
        return cls(described.name, described.type, tuple(described.shape))


@dataclass(slots=True, weakref_slot=True, eq=False)
class _Bound:
    """A forward of one shape: everything it reads and writes.

    Attributes:
        session: onnxruntime's.
        binding: onnxruntime's, of the tensors below.
        images: Contiguous (batch, channels, height, width).
        outputs: What onnxruntime writes.
        results: The same in float32; the same tensors where they are float32.
        options: Of the run.
    """

    session: Any
    binding: Any
    images: Tensor
    outputs: list[Tensor]
    results: list[Tensor]
    options: Any


class OnnxForward:
    """The network on a stream: a session for all shapes or one for each, and what is bound.

    One forward runs at a time, so all shapes share their memory: outputs are good until the next
    forward. A shape lives as long as whoever keeps its `anchors`.
    """

    fused = False
    capturable = False

    def __init__(self, network: OnnxNetwork, device: Any, stream: Any) -> None:
        """Open a session; the weights take their memory now.

        Args:
            network: Whose it is.
            device: A torch device, where it runs.
            stream: A torch stream, on which it runs; it is kept alive. None on the CPU.
        """
        self.spec = network.spec
        self.dtype = network.dtype
        self._network = network
        self._device = device
        self._stream = stream
        self._session: Any = None
        self._sessions: WeakValueDictionary[tuple[int, ...], Any] = WeakValueDictionary()
        self._shapes: dict[tuple[int, ...], list[list[int]]] = {}
        self._bound: WeakValueDictionary[tuple[int, ...], _Bound] = WeakValueDictionary()
        self._last: _Bound | None = None
        self._graph_ids = itertools.count(1)
        self._memory: dict[object, Tensor] = {}
        self._input = network.input
        self._outputs = network.outputs
        if not network.techniques.static:
            self._session = network.open(stream, {})

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Queue a forward of images (batch, channels, height, width), 0 to 1, in `dtype`.

        Returns:
            float32 outputs; the same tensors for every forward of this shape.

        Raises:
            OutOfMemoryError: It does not fit.
            RuntimeFailedError: onnxruntime failed.
        """
        bound = self._last = self._bound.get(tuple(images.shape)) or self._bind(images)
        bound.images.copy_(images)
        self._run(bound.session, bound.binding, bound.options)
        for result, output in zip(bound.results, bound.outputs, strict=True):
            if result is not output:
                result.copy_(output)
        return bound.results

    def reserve(self, values: int) -> None:
        """Take the memory for the largest images, in values."""
        self._view("images", (values,), self.dtype)

    def compile(self, images: Tensor) -> None:
        """Allocate and bind what a forward of this shape reads and writes."""
        self._last = self._bind(images)

    def record(self, images: Tensor, pool: Any) -> None:
        """Return None: what onnxruntime launches is its own business."""

    def anchors(self) -> tuple[Any, ...]:
        """Return what the last forward read and wrote; without it that shape is bound anew."""
        return (self._last,)

    def close(self) -> None:
        """Close the sessions and give the memory back; what is kept of a shape is of no use."""
        for bound in list(self._bound.values()):
            bound.session = bound.binding = None
        self._last = self._session = None
        self._memory.clear()

    def _bind(self, images: Tensor) -> _Bound:
        shape = tuple(images.shape)
        bound_images = self._view("images", shape, self.dtype)
        session = self._session_for(shape)
        binding = session.io_binding()
        self._bind_input(binding, bound_images)
        outputs = []
        for port, size in zip(self._outputs, self._output_shapes(images), strict=True):
            kind, numpy_kind = TYPES[port.type]
            output = self._view(port.name, size, kind)
            outputs.append(output)
            binding.bind_output(
                port.name,
                **self._place(),
                element_type=numpy_kind,
                shape=size,
                buffer_ptr=output.data_ptr(),
            )
        results = [
            output
            if output.dtype == torch.float32
            else self._view((port.name, "float32"), output.shape, torch.float32)
            for port, output in zip(self._outputs, outputs, strict=True)
        ]
        options = self._run_options(str(next(self._graph_ids)))
        bound = _Bound(session, binding, bound_images, outputs, results, options)
        self._bound[shape] = bound
        return bound

    def _view(self, name: object, shape: Sequence[int], dtype: Any) -> Tensor:
        """Return a tensor in the memory that all shapes share under a name."""
        values = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.numel() < values:
            memory = zeros((values,), dtype, self._device)
            self._memory[name] = memory
        return memory[:values].view(tuple(shape))

    def _session_for(self, shape: tuple[int, ...]) -> Any:
        """Return the session that runs images of a shape, opening it if need be."""
        if self._session is not None:
            return self._session
        session = self._sessions.get(shape)
        if session is None:
            named = zip(self._input.shape, shape, strict=True)
            open_ones = {name: side for name, side in named if isinstance(name, str)}
            session = self._sessions[shape] = self._network.open(self._stream, open_ones)
        return session

    def _output_shapes(self, images: Tensor) -> list[list[int]]:
        """Return the shape of each output, learnt by a forward: files often do not tell.

        A forward of one image tells it for any batch, whose axis is the first.
        """
        batch, *image = images.shape
        count = self.spec.fixed_batch or (batch if self._network.techniques.static else 1)
        shape = (count, *image)
        if shape not in self._shapes:
            session = self._session_for(shape)
            binding = session.io_binding()
            blank = zeros(shape, self.dtype, self._device)
            self._bind_input(binding, blank)
            for port in self._outputs:
                binding.bind_output(port.name, **self._place())
            self._run(session, binding, self._run_options(NO_CAPTURE))
            found = [list(value.shape()) for value in binding.get_outputs()]
            for port, size in zip(self._outputs, found, strict=True):
                if not size or size[0] != count:
                    raise ModelError(
                        f"output {port.name} has the shape {tuple(size)} for a batch of {count}; "
                        "expected the batch first"
                    )
            self._shapes[shape] = found
        return [[batch, *size[1:]] for size in self._shapes[shape]]

    def _bind_input(self, binding: Any, images: Tensor) -> None:
        binding.bind_input(
            self._input.name,
            **self._place(),
            element_type=TYPES[self._input.type][1],
            shape=list(images.shape),
            buffer_ptr=images.data_ptr(),
        )

    def _place(self) -> dict[str, Any]:
        return {"device_type": self._device.type, "device_id": self._device.index or 0}

    def _run_options(self, graph: str) -> Any:
        import onnxruntime

        options = onnxruntime.RunOptions()
        # The host does not wait for the device: the lane's event tells when it is done.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._network.graphs == "on":
            options.add_run_config_entry("gpu_graph_id", graph)
        return options

    def _run(self, session: Any, binding: Any, options: Any) -> None:
        try:
            self._network.call(lambda: session.run_with_iobinding(binding, options))
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise running_failed(error) from error
