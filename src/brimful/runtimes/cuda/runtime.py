"""The `torch` runtime on CUDA: encoded images in, selected rows out, everything else on the device.

Two threads: the driver decodes a batch while the lanes compute the ones before it, then queues
letterbox, forward and selection on a lane that is free; the finisher waits for the lanes in turn
and hands their rows on. Neither works on single images.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from brimful.announce import announced
from brimful.errors import RuntimeFailedError
from brimful.models.artifact import artifact, digest_of
from brimful.models.model import Model
from brimful.runtimes.cuda.budget import Budget, knee, sizes_to_try
from brimful.runtimes.cuda.lane import Graph, Lane
from brimful.runtimes.cuda.loader import Loader
from brimful.runtimes.cuda.network import CudaNetwork
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.cuda.techniques import DEFAULT, Techniques
from brimful.runtimes.cuda.video import open_video
from brimful.runtimes.runtime import (
    Done,
    InputFormat,
    OutOfMemoryError,
    Outputs,
    RuntimeOptions,
    Slot,
)
from brimful.runtimes.torch_eager import cuda_device
from brimful.spec import ModelSpec, Size
from brimful.vision.header import Header
from brimful.vision.heads.selected import Selected

LANES = 2
"""Forwards in flight: one computes while the next is queued behind it."""

DEFAULT_BATCH = 64

PIXEL_BYTES = 32 * 2**20
"""Decoded images of a batch have at least so much room: 10 megapixels."""

PIXEL_BYTES_PER_IMAGE = 2**20
"""And so much for each image of a batch: VGA and a little more. Larger ones go in pieces."""


@dataclass(slots=True)
class _Forward:
    """A batch on its way through the device."""

    slot: CudaSlot
    count: int
    done: Done
    errors: dict[int, str] = field(default_factory=dict)
    lane: Lane | None = None
    graph: Graph | None = None


class TorchCudaRuntime:
    """Executes a checkpoint's network with captured graphs of fused kernels.

    Attributes:
        timings: Seconds that the driver has spent on decoding, on waiting for a free lane, and on
            launching. It waits where the model limits, and does not where decode does.
    """

    name = "torch"
    input_format: InputFormat = "hwc_u8"
    concurrency = LANES

    def __init__(
        self, model: Model, options: RuntimeOptions, techniques: Techniques = DEFAULT
    ) -> None:
        """Load a checkpoint onto a GPU.

        Raises:
            MissingExtraError: ultralytics is not installed.
            ModelError: The file cannot be read.
            UsageError: There is no such device.
        """
        # Some calls refuse a device without its index.
        self._device = torch.device("cuda", cuda_device(torch, options.device).index or 0)
        self._precision = options.precision
        self._techniques = techniques
        self._preparing = threading.Lock()
        self._prepared: set[tuple[Size, int]] = set()
        self._lanes: list[Lane] = []
        self._budget = None if options.memory is None else Budget(options.memory, self._device)
        with torch.cuda.device(self._device), torch.inference_mode():
            self._network = self._open_network(model, options)
            self.spec: ModelSpec = self._network.spec
            self._select = options.postprocess if techniques.select else None
            self._largest = options.largest or self.spec.imgsz
            self.video, self._video_note = open_video(
                techniques, self.spec, self._device, budget=self._budget is not None
            )
            self._loader = Loader(
                1, self.spec.channels, 0, self._device
            )  # until the batch is known
            try:
                self._fit(model, options)
            except BaseException:
                self._give_back()
                raise
        self.timings = dict.fromkeys(("decode", "wait for the model", "launch"), 0.0)
        self._submitted: queue.SimpleQueue[_Forward | None] = queue.SimpleQueue()
        self._flying: queue.SimpleQueue[_Forward | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=target, name=f"brimful-cuda-{name}", daemon=True)
            for name, target in (("driver", self._drive), ("finisher", self._finish))
        ]
        for thread in self._threads:
            thread.start()

    @property
    def decodes(self) -> Callable[[Header], bool] | None:
        """Tells whether the device decodes an image of this header."""
        return self._loader.takes if self._loader.decodes else None

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> CudaSlot:
        """Make a slot; the first of a canvas captures all of its graphs.

        Captures must not fall into the middle of a job: they stop the lanes.
        """
        count = capacity or self.max_batch
        with self._preparing:
            if (canvas, count) not in self._prepared:
                self._prepare(canvas, count)
                self._prepared.add((canvas, count))
        return CudaSlot(canvas, count, self.spec.channels)

    def submit(self, slot: Slot, count: int, done: Done) -> None:
        """Start the forward of the first `count` images, rounded up to the next graph."""
        assert isinstance(slot, CudaSlot)
        self._submitted.put(_Forward(slot, count, done))

    def describe(self) -> dict[str, str | int]:
        """Return the version, device, precision and where images are decoded."""
        return {
            "runtime": self.name,
            "version": torch.__version__,
            "device": torch.cuda.get_device_name(self._device),
            "precision": self._precision,
            "kernels": "fused" if self._network.fused else "cudnn",
            "decode": self._decode_note,
            "video": self.video.describe() if self.video else self._video_note,
            "forwards": LANES,
        }

    def close(self) -> None:
        """Drop graphs and network and give their memory back."""
        self._submitted.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=10)
        self._give_back()

    def _give_back(self) -> None:
        """Free the device's memory and lift the limit on it."""
        self._network.close()
        self._close_lanes()
        if self._budget is not None:
            self._budget.release()

    def _open_network(self, model: Model, options: RuntimeOptions) -> CudaNetwork:
        return CudaNetwork(model, options.precision, self._device, fused=self._techniques.fused)

    def _fit(self, model: Model, options: RuntimeOptions) -> None:
        """Make lanes and loader for a batch that fits the budget and is worth its memory."""
        if self._budget is not None:
            self._wake_libraries()
            self._budget.enforce()
        fixed = options.max_batch
        if fixed is None and self._budget is None and not options.tune_batch:
            fixed = DEFAULT_BATCH
        for batch in sizes_to_try(fixed):
            if self._fits(batch, model, options):
                return
        if self._budget is not None:
            raise self._budget.exceeded(fixed or 1, self._largest, self._precision)
        raise OutOfMemoryError(
            f"batch {fixed or 1} at {self._largest[0]}x{self._largest[1]} in {self._precision} "
            f"does not fit the memory of {self._device}; use a smaller --batch or --imgsz"
        )

    def _fits(self, batch: int, model: Model, options: RuntimeOptions) -> bool:
        """Open lanes for a batch, and take the memory now where it is scarce or measured."""
        try:
            self._open_lanes(batch)
            if self._budget is not None or options.tune_batch:
                self._prepare(self._largest, batch)
                self._prepared.add((self._largest, batch))
            if options.tune_batch:
                self._tune(model)
            return True
        except (torch.OutOfMemoryError, OutOfMemoryError):
            pass  # its traceback still holds tensors: they go with it, before the memory is freed
        self._close_lanes()
        return False

    def _open_lanes(self, batch: int) -> None:
        self.max_batch = batch
        self._lanes = [
            Lane(self._network, batch, self._device, captures=self._techniques.graphs)
            for _ in range(LANES)
        ]
        height, width = self._largest
        for lane in self._lanes:
            lane.reserve(batch * height * width * self.spec.channels)
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._loader, self._decode_note = self._open_loader()

    def _close_lanes(self) -> None:
        torch.cuda.synchronize(self._device)
        self._loader.close()
        for lane in self._lanes:
            lane.clear()
        self._lanes.clear()
        self._prepared.clear()
        self._free = queue.SimpleQueue()
        torch._C._cuda_clearCublasWorkspaces()  # they are kept per stream, for ever
        torch.cuda.empty_cache()

    def _tune(self, model: Model) -> None:
        """Go on with the smallest batch that is nearly as fast as the largest that fits."""
        device = torch.cuda.get_device_name(self._device)
        facts = {
            "model": digest_of(model.path),
            "device": device,
            "torch": torch.__version__,
            "precision": self._precision,
            "canvas": self._largest,
            "largest": self.max_batch,
        }

        def measure(folder: Path) -> None:
            (folder / "batch").write_text(str(knee(self._lanes[0].rates(self._largest))))

        chosen = int((artifact("batch", facts, measure) / "batch").read_text())
        if chosen < self.max_batch:
            self._close_lanes()
            self._open_lanes(chosen)

    def _wake_libraries(self) -> None:
        """Run the network once, so that libraries take what memory they take."""
        side = 2 * self.spec.stride
        shape = (1, self.spec.channels, side, side)
        blank = torch.zeros(shape, dtype=self._network.dtype, device=self._device)
        images = blank.contiguous(memory_format=torch.channels_last)
        self._network.compile(images)
        self._network(images)

    def _open_loader(self) -> tuple[Loader, str]:
        """Return a loader with the device's decoder, or without where there is none."""
        channels = self.spec.channels
        if not self._techniques.decode or self.spec.task == "classify" or channels != 3:
            return Loader(self.max_batch, channels, 0, self._device), "cpu"
        room = max(PIXEL_BYTES, self.max_batch * PIXEL_BYTES_PER_IMAGE)
        if self._budget is not None:
            room = min(room, self._budget.limit // 32)
        try:
            return Loader(self.max_batch, channels, room, self._device), "gpu"
        except RuntimeFailedError as error:
            return Loader(self.max_batch, channels, 0, self._device), f"cpu ({error})"

    # Driver -----------------------------------------------------------------------------------

    def _drive(self) -> None:
        """Decode and launch what is submitted, until told to stop."""
        while True:
            begun = time.perf_counter()
            forward = self._submitted.get()
            if forward is None:
                break
            try:
                with torch.cuda.device(self._device), torch.inference_mode():
                    self._launch(forward, time.perf_counter() - begun)
            except torch.OutOfMemoryError as error:
                self._abandon(forward, OutOfMemoryError(str(error)))
            except BaseException as error:
                self._abandon(forward, error)
            else:
                self._flying.put(forward)
            del forward  # an idle thread keeps no image alive
        self._flying.put(None)

    def _launch(self, forward: _Forward, idle_s: float) -> None:
        slot, count = forward.slot, forward.count
        begun = time.perf_counter()
        pieces = self._loader.pieces(slot, count, forward.errors)
        first = next(pieces, None)  # decodes while the lanes are busy
        decoded = time.perf_counter()
        lane = forward.lane = self._free.get()
        waited = time.perf_counter()
        bucket = next(size for size in buckets(slot.capacity) if size >= count)
        graph = lane.graph(slot.canvas, bucket) or lane.capture(slot.canvas, bucket, self._select)
        forward.graph = graph
        loaded = 0
        if first is not None:
            for piece in itertools.chain((first,), pieces):
                loaded = self._loader.load(piece, lane, graph, loaded)
        lane.live_host[0] = count
        with torch.cuda.stream(lane.stream):
            lane.live.copy_(lane.live_host, non_blocking=True)
            graph.replay()
            hosts = slot.host_outputs(graph.outputs)
            for host, output in zip(hosts, graph.outputs, strict=True):
                host[:count].copy_(output[:count], non_blocking=True)
            lane.finished.record()
        launched = time.perf_counter()
        self._loader.split.observe(decode_s=decoded - begun, wait_s=waited - decoded, idle_s=idle_s)
        self.timings["decode"] += decoded - begun
        self.timings["wait for the model"] += waited - decoded
        self.timings["launch"] += launched - waited

    def _abandon(self, forward: _Forward, error: BaseException) -> None:
        """Give back what a forward holds that could not be launched, and tell why."""
        if forward.lane is not None:
            with contextlib.suppress(RuntimeError):  # what was queued may still read its buffers
                torch.cuda.synchronize(self._device)
            self._free.put(forward.lane)
        forward.done(None, error)

    # Finisher ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Wait for the lanes in turn and hand on what they found, until told to stop."""
        while (forward := self._flying.get()) is not None:
            lane = forward.lane
            assert lane is not None
            try:
                lane.finished.synchronize()
                outputs = _collect(forward)
            except BaseException as error:
                self._abandon(forward, error)
            else:
                self._free.put(lane)
                forward.done(outputs, None)
            del forward, lane

    # Captures ---------------------------------------------------------------------------------

    def _prepare(self, canvas: Size, capacity: int) -> None:
        """Capture every graph of a canvas, the largest first: the others fit its memory."""
        # What runs on a stream that captures becomes part of the graph: take the lanes away first.
        lanes = [self._free.get() for _ in self._lanes]
        try:
            doing = f"capturing the graphs of canvas {canvas[0]}x{canvas[1]}, once a run"
            context = torch.cuda.device(self._device)
            with announced(doing), context, torch.inference_mode():
                for bucket in reversed(buckets(capacity)):
                    for lane in lanes:
                        lane.capture(canvas, bucket, self._select)
                torch.cuda.synchronize()
                torch.cuda.empty_cache()  # what the warm-up took
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        finally:
            for lane in lanes:
                self._free.put(lane)


def buckets(capacity: int) -> list[int]:
    """Return the batch sizes that have a graph: powers of four, half the capacity, the capacity."""
    sizes = {1, capacity, max(1, capacity // 2)}
    size = 4
    while size < capacity // 2:
        sizes.add(size)
        size *= 4
    return sorted(sizes)


def _collect(forward: _Forward) -> Outputs:
    """Return what a forward that has run found."""
    graph, count = forward.graph, forward.count
    assert graph is not None
    arrays = [host.numpy()[:count] for host in forward.slot.outputs]
    if graph.select is not None:
        return Selected(rows=graph.select.rows(count), arrays=arrays, errors=forward.errors)
    if forward.errors:  # the engine runs the others again, each on its own
        raise RuntimeFailedError("; ".join(forward.errors.values()))
    return arrays
