"""Lane: a stream with an input and captured graphs of its own.

There are several, so that batches are brought to the device and taken from it while one computes.
Launching a small network's kernels from Python costs several times what they compute; a captured
graph replays them in one call. A lane has one graph per canvas and batch size. A `ForwardSequencer`
orders the forwards of all lanes, so all graphs share the memory of a network's activations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from brimful.cuda.events import Event
from brimful.cuda.graphs import capture
from brimful.cuda.memory import clear, zeros
from brimful.cuda.streams import give_stream, take_stream
from brimful.runtimes.cuda.network.forward import Network
from brimful.runtimes.cuda.sequencer import ForwardSequencer
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.cuda.techniques import DEFAULT, Techniques
from brimful.runtimes.runtime import Params
from brimful.spec import Size
from brimful.vision.cuda.letterbox import COLUMNS
from brimful.vision.cuda.masks import DeviceMasks, MaskBuffers
from brimful.vision.cuda.select import DeviceSelect
from brimful.vision.heads.config import PostprocessConfig

GRAPHS_KEPT = 64
"""Graphs a lane keeps; the least recently used goes."""

REPLAYS = 8
"""Forwards that a rate is measured over."""


@dataclass(slots=True)
class Graph:
    """A captured forward, selection included.

    Attributes:
        canvas: (height, width).
        bucket: Images it computes, whether they are there or not.
        input: (bucket, channels, height, width) in the network's dtype, channels-last.
        replay: Runs it on the current stream.
        select: Holds the rows afterwards; None when the host selects.
        masks: Holds their masks; None when the host computes them, or there are none.
        outputs: float32 outputs that the host needs, on the device.
        keeps: What the graph reads and nothing else holds.
    """

    canvas: Size
    bucket: int
    input: Tensor
    replay: Callable[[], None]
    select: DeviceSelect | None
    masks: DeviceMasks | None
    outputs: list[Tensor]
    keeps: tuple[Any, ...]


_Captured = tuple[list[Tensor], DeviceSelect | None, DeviceMasks | None, Callable[[], None], Any]
"""Outputs, selection, masks, replay, and what it reads that nothing else holds."""


class Lane:
    """A stream, its buffers, and its graphs."""

    def __init__(
        self,
        network: Network,
        capacity: int,
        device: Any,
        sequencer: ForwardSequencer,
        techniques: Techniques = DEFAULT,
    ) -> None:
        """Make the buffers that do not depend on the canvas.

        Args:
            network: What graphs are captured of, where they can be.
            capacity: Images of a batch at most.
            device: CUDA device, the current one.
            sequencer: Shared by all lanes of the network.
            techniques: Whether to capture graphs, and to compute masks on the device.
        """
        self.stream: Any = take_stream(device)
        self.fixed_batch = network.spec.fixed_batch
        self.begun, self.finished = Event(timed=True), Event(blocking=True, timed=True)
        self.table_host = torch.zeros((capacity, COLUMNS), dtype=torch.int64, pin_memory=True)
        self.table = zeros((capacity, COLUMNS), torch.int64, device)
        self.live_host = torch.zeros(1, dtype=torch.int32, pin_memory=True)
        self._live_count = self.live_host.numpy()  # PyTorch gives the interpreter's lock away
        self.live = zeros((1,), torch.int32, device)
        self._network = network.on(self.stream)
        self._device = device
        self._captures = techniques.graphs
        self._capacity = capacity
        self._masks = techniques.masks and network.spec.task == "segment"
        self._mask_buffers: MaskBuffers | None = None
        self._sequencer = sequencer
        self._graphs: OrderedDict[tuple[Size, int], Graph] = OrderedDict()
        self._wanted: set[tuple[Size, int]] = set()
        self._input = torch.empty(0, dtype=network.dtype, device=device)

    def graph(self, canvas: Size, bucket: int) -> Graph | None:
        """Return the graph of a canvas and batch size, if it is there."""
        graph = self._graphs.get((canvas, bucket))
        if graph is not None:
            self._graphs.move_to_end((canvas, bucket))
        return graph

    def seconds(self) -> float:
        """Return the device's time for the last forward, once that has finished."""
        return self.begun.seconds_until(self.finished)

    def graph_for(
        self, canvas: Size, count: int, sizes: Sequence[int], config: PostprocessConfig | None
    ) -> Graph:
        """Return a graph for a batch, captured if need be.

        A size that is wanted for the first time makes do with a larger graph, if there is one: what
        is left over at the end of a job is not worth a graph of its own.

        Args:
            canvas: (height, width).
            count: Images of the batch.
            sizes: Batch sizes that may be captured, ascending; the last one is at least `count`.
            config: See `capture`.
        """
        fitting = [size for size in sizes if size >= count]
        best = canvas, fitting[0]
        if self.graph(*best) is None and best not in self._wanted:
            self._wanted.add(best)
            for size in fitting[1:]:
                if (larger := self.graph(canvas, size)) is not None:
                    return larger
        return self.graph(*best) or self.capture(*best, config)

    def run(self, graph: Graph, slot: CudaSlot, count: int, params: Params = None) -> None:
        """Queue a forward of what has been loaded; `finished` tells when it has ended.

        Args:
            graph: One of this lane's.
            slot: Says where images lie on the canvas; its pinned memory gets `Graph.outputs`.
            count: Images that are there.
            params: What becomes a detection in each of them, where not all take what the graph was
                captured with.
        """
        self._live_count[0] = count
        hosts = slot.host_outputs(graph.outputs)
        with torch.cuda.stream(self.stream):
            if graph.select is not None:
                graph.select.configure(params)
            if graph.masks is not None:
                graph.masks.place(slot.geometries[:count])
            with self._sequencer.next(self.stream, self.finished, self.begun):
                graph.replay()
                for host, output in zip(hosts, graph.outputs, strict=True):
                    host[:count].copy_(output[:count], non_blocking=True)

    @contextmanager
    def again(self, graph: Graph) -> Iterator[None]:
        """Run the last forward again and hold its turn: what it computes on its way is there then.

        Args:
            graph: The one that `run` was called with; nothing has been loaded since.
        """
        turn = self._sequencer.next(self.stream, self.finished)
        with torch.cuda.stream(self.stream), torch.inference_mode(), turn:
            graph.replay()
            self.stream.synchronize()
            yield

    def reserve(self, values: int) -> None:
        """Make room for the largest input, in values; graphs of a smaller buffer are dropped."""
        if values > self._input.numel():
            self._graphs.clear()
            self._input = zeros((values,), self._network.dtype, self._device)
            self._network.reserve(values)

    def capture(self, canvas: Size, bucket: int, config: PostprocessConfig | None) -> Graph:
        """Capture the forward of a canvas and batch size; nothing else may run on the lane.

        Other lanes may, where the network is recorded.

        Args:
            canvas: (height, width).
            bucket: Images.
            config: What to select with on the device, in images that have no setting of their own;
                None leaves it to the host.
        """
        network = self._network
        spec = network.spec
        shape = (bucket, *canvas, spec.channels)
        values = bucket * canvas[0] * canvas[1] * spec.channels
        self.reserve(values)
        images = self._input[:values].view(shape).permute(0, 3, 1, 2)
        # TF32 would round fp32 to ten bits of mantissa; who wants that asks for fp16.
        flags = torch.backends.cudnn.flags(
            enabled=True, benchmark=not network.fused, deterministic=False, allow_tf32=False
        )
        shared = self._captures and network.capturable
        stream = self._sequencer.stream if shared else self.stream
        stream.wait_stream(torch.cuda.current_stream())
        self.live_host[0] = bucket
        with self._sequencer.capturing, flags, torch.cuda.stream(stream):
            made = self._recorded(images, config) if shared else None
            outputs, select, masks, replay, keeps = made or self._tried(images, config)
        self.stream.wait_stream(stream)
        host_masks = spec.task == "segment" and masks is None
        needed = outputs if select is None else outputs[1:] if host_masks else []
        captured = Graph(
            canvas=canvas,
            bucket=bucket,
            input=images,
            replay=replay,
            select=select,
            masks=masks,
            outputs=list(needed),
            keeps=(keeps, network.anchors()),
        )
        self._graphs[canvas, bucket] = captured
        if len(self._graphs) > GRAPHS_KEPT:
            self._graphs.popitem(last=False)
        return captured

    def _recorded(self, images: Tensor, config: PostprocessConfig | None) -> _Captured | None:
        """Capture a forward that was only recorded, if it can be; no other lane has to wait."""
        stream = torch.cuda.current_stream()
        recorded = self._network.record(images, self._sequencer.pool)
        if recorded is None:
            return None
        program, outputs = recorded
        select, masks = self._selection(config, outputs, len(images))
        _launch(select, masks, outputs, self.live)  # compiles; what it selects from is garbage

        def forward() -> None:
            self.live.copy_(self.live_host, non_blocking=True)  # a replay reads what is there then
            program.run(stream.cuda_stream)
            _launch(select, masks, outputs, self.live)

        graph, _ = capture(forward, self._sequencer.pool)
        return outputs, select, masks, graph.replay, graph

    def _tried(self, images: Tensor, config: PostprocessConfig | None) -> _Captured:
        """Capture a forward that has run before, as libraries want it."""
        network = self._network
        self.live.copy_(self.live_host, non_blocking=True)
        clear(images)
        network.compile(images)
        # Searches of libraries for their fastest kernel must not be captured.
        for _ in range(1 if network.fused else 3):
            outputs = network(images)
        select, masks = self._selection(config, outputs, len(images))
        _launch(select, masks, outputs, self.live)
        torch.cuda.current_stream().synchronize()
        torch.cuda.empty_cache()  # the capture takes its memory from a pool of its own
        outputs, replay, keeps = self._captured(images, select, masks, outputs)
        return outputs, select, masks, replay, keeps

    def _captured(
        self,
        images: Tensor,
        select: DeviceSelect | None,
        masks: DeviceMasks | None,
        outputs: list[Tensor],
    ) -> tuple[list[Tensor], Callable[[], None], Any]:
        """Capture a forward that has run before; return its outputs, its replay, and the graph."""
        network = self._network

        def forward() -> list[Tensor]:
            self.live.copy_(self.live_host, non_blocking=True)  # a replay reads what is there then
            found = network(images)
            _launch(select, masks, found, self.live)
            return found

        if not self._captures:

            def replay() -> None:
                for kept, found in zip(outputs, forward(), strict=True):
                    kept.copy_(found)

            return outputs, replay, None
        if not network.capturable:
            return outputs, *self._captured_selection(images, select, masks, outputs)
        graph, outputs = capture(forward, self._sequencer.pool)
        return outputs, graph.replay, graph

    def _captured_selection(
        self,
        images: Tensor,
        select: DeviceSelect | None,
        masks: DeviceMasks | None,
        outputs: list[Tensor],
    ) -> tuple[Callable[[], None], Any]:
        """Capture what comes after a network that launches itself, always into these outputs."""
        network = self._network
        if select is None:

            def run() -> None:
                network(images)

            return run, None

        def selection() -> None:
            self.live.copy_(self.live_host, non_blocking=True)
            _launch(select, masks, outputs, self.live)

        graph, _ = capture(selection, self._sequencer.pool)

        def replay() -> None:
            network(images)
            graph.replay()

        return replay, graph

    def rates(self, canvas: Size) -> dict[int, float]:
        """Measure the images per second of each captured batch size of a canvas."""
        found: dict[int, float] = {}
        self.live_host[0] = max(bucket for _, bucket in self._graphs)
        with torch.cuda.stream(self.stream):
            for (size, bucket), graph in list(self._graphs.items()):
                if size != canvas:
                    continue
                graph.replay()
                start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()
                for _ in range(REPLAYS):
                    graph.replay()
                stop.record()
                stop.synchronize()
                found[bucket] = 1e3 * REPLAYS * bucket / start.elapsed_time(stop)
        return found

    def close(self) -> None:
        """Drop the graphs, their memory and the stream; nothing may run on it."""
        self._graphs.clear()
        self._mask_buffers = None
        self._input = torch.empty(0, device=self._device)
        give_stream(self.stream)

    def _selection(
        self, config: PostprocessConfig | None, outputs: list[Tensor], bucket: int
    ) -> tuple[DeviceSelect | None, DeviceMasks | None]:
        """Return the device's selection and masks, or None for what the host does."""
        spec = self._network.spec
        if config is None or DeviceSelect.supports(spec, config) is not None:
            return None, None
        head = outputs[0]
        candidates = head.shape[2] if spec.head == "raw" else head.shape[1]
        if not self._masks:
            return DeviceSelect(spec, config, bucket, candidates, self._device), None
        buffers = self._buffers(min(config.max_det, candidates), 6 + spec.extra)
        copy = buffers.rows, buffers.counts
        select = DeviceSelect(spec, config, bucket, candidates, self._device, copy=copy)
        height, width = outputs[1].shape[2:]
        return select, DeviceMasks(buffers, bucket, (height, width))

    def _buffers(self, limit: int, width: int) -> MaskBuffers:
        """Return memory for the masks of a batch; graphs that were captured keep what they have."""
        if self._mask_buffers is None or self._mask_buffers.limit < limit:
            self._mask_buffers = MaskBuffers(self._capacity, limit, width, self._device)
        return self._mask_buffers


def _launch(
    select: DeviceSelect | None, masks: DeviceMasks | None, outputs: list[Tensor], live: Tensor
) -> None:
    """Launch what follows the network."""
    if select is not None:
        select.launch(outputs[0], live)
    if masks is not None:
        masks.launch(outputs[1])
