"""The `torch` runtime on CUDA: one hand-captured graph per canvas and batch size.

A small network launches hundreds of kernels, and launching them from Python costs several times
what they compute; a graph replays them in one call. Weights are cast once (fp16, bf16), and the
head decodes boxes in float32 all the same: in half precision a coordinate beyond 512 is only known
to half a pixel.

Two lanes, each a stream with buffers and graphs of its own, keep the device busy while the other
lane's results travel back.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from brimful.extras import require
from brimful.models.checkpoint import load_checkpoint
from brimful.models.model import Model
from brimful.runtimes.runtime import (
    Done,
    InputFormat,
    OutOfMemoryError,
    Outputs,
    RuntimeOptions,
    Slot,
    new_input,
)
from brimful.runtimes.torch_eager import cuda_device
from brimful.runtimes.workers import ForwardWorkers
from brimful.spec import ModelSpec, Size

LANES = 2
"""Forwards in flight: one computes while the other's results are copied back."""

GRAPHS_KEPT = 32
"""Graphs a lane keeps; the least recently used goes."""

DEFAULT_BATCH = 32

WARM_UP = 3
"""Real calls before a capture: cuDNN's search for the fastest kernel must not be captured."""


@dataclass(slots=True)
class CudaSlot:
    """Pinned host memory of one batch: pixels in, outputs back."""

    canvas: Size
    inputs: NDArray[Any]
    pinned: Any
    outputs: list[Any] = field(default_factory=list)

    @property
    def capacity(self) -> int:
        """Images the slot holds at most."""
        return len(self.inputs)


@dataclass(slots=True)
class _Graph:
    """A captured forward with its static device buffers, and what it reads besides weights."""

    pixels: Any
    outputs: list[Any]
    graph: Any
    anchors: tuple[Any, ...]


@dataclass(slots=True)
class _Lane:
    """A stream, and the graphs that run on it, one at a time."""

    stream: Any
    pool: Any
    graphs: OrderedDict[tuple[Size, int], _Graph] = field(default_factory=OrderedDict)


class TorchCudaRuntime:
    """Executes a checkpoint's network with CUDA graphs."""

    name = "torch"
    input_format: InputFormat = "hwc_u8"
    concurrency = LANES

    def __init__(self, model: Model, options: RuntimeOptions) -> None:
        """Load a checkpoint onto a GPU.

        Raises:
            MissingExtraError: torch or ultralytics is not installed.
            ModelError: The file cannot be read.
            UsageError: There is no such device.
        """
        torch = require("torch", feature="The torch runtime", extra="torch")
        self._torch = torch
        self._device = cuda_device(torch, options.device)
        self._precision = options.precision
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            options.precision
        ]
        loaded = load_checkpoint(
            model.path,
            nms=model.options.nms,
            overrides=model.options.overrides,
            trust=model.options.trust,
            max_det=model.options.max_det,
        )
        self.spec: ModelSpec = loaded.spec
        self._network = _lowered(torch, loaded.network, self._dtype).to(
            self._device, memory_format=torch.channels_last
        )
        # Anchors are made on the CPU, which a capture forbids: they are made once per shape in the
        # warm-up, and each graph keeps its own.
        self._network.model[-1].dynamic = False
        self.max_batch = options.max_batch or DEFAULT_BATCH
        self._preparing = threading.Lock()
        self._capture = threading.Lock()  # the network's anchors belong to one capture at a time
        self._prepared: set[tuple[Size, int]] = set()
        with torch.cuda.device(self._device):
            self._lanes = [
                _Lane(torch.cuda.Stream(), torch.cuda.graph_pool_handle()) for _ in range(LANES)
            ]
        self._free: queue.SimpleQueue[_Lane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._workers = ForwardWorkers(LANES, name=self.name)

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> CudaSlot:
        """Make a slot of pinned memory; the first of a canvas captures all of its graphs.

        A capture takes about two seconds, most of it cuDNN's search for the fastest kernels, so it
        must not fall into the middle of a job.
        """
        count = capacity or self.max_batch
        with self._preparing:
            if (canvas, count) not in self._prepared:
                self._prepare(canvas, count)
                self._prepared.add((canvas, count))
        inputs = new_input(self.spec, self.input_format, canvas, count)
        pinned = self._torch.from_numpy(inputs).pin_memory()
        return CudaSlot(canvas, pinned.numpy(), pinned)

    def submit(self, slot: Slot, count: int, done: Done) -> None:
        """Start the forward of the first `count` images, rounded up to the next graph."""
        assert isinstance(slot, CudaSlot)
        self._workers.submit(lambda: self._forward(slot, count), done)

    def describe(self) -> dict[str, str | int]:
        """Return the version, device and precision."""
        return {
            "runtime": self.name,
            "version": self._torch.__version__,
            "device": self._torch.cuda.get_device_name(self._device),
            "precision": self._precision,
            "forwards": LANES,
        }

    def close(self) -> None:
        """Drop graphs and network and give their memory back."""
        self._workers.close()
        torch = self._torch
        for lane in self._lanes:
            lane.graphs.clear()
        self._network = None
        torch.cuda.synchronize(self._device)
        torch._C._cuda_clearCublasWorkspaces()  # they are kept per stream, for ever
        torch.cuda.empty_cache()

    def _forward(self, slot: CudaSlot, count: int) -> Outputs:
        torch = self._torch
        lane = self._free.get()
        try:
            with torch.cuda.device(self._device), torch.inference_mode():
                bucket = next(size for size in buckets(slot.capacity) if size >= count)
                graph = self._graph(lane, slot.canvas, bucket)
                if not slot.outputs:
                    slot.outputs = [
                        torch.empty(
                            (slot.capacity, *output.shape[1:]), dtype=output.dtype, pin_memory=True
                        )
                        for output in graph.outputs
                    ]
                with torch.cuda.stream(lane.stream):
                    graph.pixels[:count].copy_(slot.pinned[:count], non_blocking=True)
                    graph.graph.replay()
                    for host, output in zip(slot.outputs, graph.outputs, strict=True):
                        host[:count].copy_(output[:count], non_blocking=True)
                lane.stream.synchronize()
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        finally:
            self._free.put(lane)
        return [host.numpy() for host in slot.outputs]

    def _prepare(self, canvas: Size, capacity: int) -> None:
        """Capture every graph of a canvas, on one thread: cuDNN's search is cached by thread."""
        torch = self._torch
        # What runs on a stream that captures becomes part of the graph: take the lanes away first.
        lanes = [self._free.get() for _ in range(LANES)]
        try:
            with self._capture, torch.cuda.device(self._device), torch.inference_mode():
                for bucket in reversed(buckets(capacity)):  # the others fit the largest one's pool
                    for lane in lanes:
                        if (canvas, bucket) not in lane.graphs:
                            self._keep(lane, (canvas, bucket), self._captured(lane, canvas, bucket))
        finally:
            for lane in lanes:
                self._free.put(lane)

    def _graph(self, lane: _Lane, canvas: Size, bucket: int) -> _Graph:
        """Return a graph of a lane that nobody else holds, capturing it again if it was dropped."""
        key = (canvas, bucket)
        graph = lane.graphs.get(key)
        if graph is None:
            with self._capture:
                graph = self._captured(lane, canvas, bucket)
                self._keep(lane, key, graph)
        lane.graphs.move_to_end(key)
        return graph

    def _keep(self, lane: _Lane, key: tuple[Size, int], graph: _Graph) -> None:
        lane.graphs[key] = graph
        if len(lane.graphs) > GRAPHS_KEPT:
            lane.graphs.popitem(last=False)

    def _captured(self, lane: _Lane, canvas: Size, bucket: int) -> _Graph:
        """Warm up and capture the forward of a canvas and batch size."""
        torch = self._torch
        pixels = torch.zeros(
            (bucket, *canvas, self.spec.channels), dtype=torch.uint8, device=self._device
        )
        # TF32 would round fp32 to ten bits of mantissa; who wants that asks for fp16.
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=True, deterministic=False, allow_tf32=False
        )
        lane.stream.wait_stream(torch.cuda.current_stream())
        with flags, torch.cuda.stream(lane.stream):
            for _ in range(WARM_UP):
                outputs = self._run(pixels)
            lane.stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Other lanes and pinned allocations go on meanwhile: only this thread is restricted.
            with torch.cuda.graph(
                graph, pool=lane.pool, stream=lane.stream, capture_error_mode="thread_local"
            ):
                outputs = self._run(pixels)
        head = self._network.model[-1]
        anchors = (getattr(head, "anchors", None), getattr(head, "strides", None))
        return _Graph(pixels, outputs, graph, anchors)

    def _run(self, pixels: Any) -> list[Any]:
        """Normalise uint8 pixels and run the network; outputs are float32."""
        torch = self._torch
        images = pixels.permute(0, 3, 1, 2)
        if self.spec.channels == 3:
            images = images.flip(1)  # BGR to RGB
        images = images.to(torch.float32).div(255.0).to(self._dtype)
        raw = self._network(images.contiguous(memory_format=torch.channels_last))
        outputs = raw if isinstance(raw, tuple | list) else (raw,)
        return [output.float() for output in outputs]


def buckets(capacity: int) -> list[int]:
    """Return the batch sizes that have a graph: powers of four, half the capacity, the capacity."""
    sizes = {1, capacity, max(1, capacity // 2)}
    size = 4
    while size < capacity // 2:
        sizes.add(size)
        size *= 4
    return sorted(sizes)


def _lowered(torch: Any, network: Any, dtype: Any) -> Any:
    """Cast the layers that compute to `dtype`; boxes are decoded in float32.

    The head's last convolutions give float32, so that distances, anchors and scores behind them
    are float32 too; the fixed weights of its box decoding stay as they are.
    """
    if dtype == torch.float32:
        return network
    nn = torch.nn
    head = network.model[-1]
    fixed = set(getattr(head, "dfl", nn.Identity()).modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module not in fixed:
            module.to(dtype)
    for parent in head.modules():
        if isinstance(parent, nn.Sequential | nn.ModuleList):
            for child in parent.children():
                if isinstance(child, nn.Conv2d):
                    child.register_forward_hook(_as_float)
    return network


def _as_float(module: Any, inputs: Any, output: Any) -> Any:
    return output.float()
