"""The `torch` runtime on CUDA: encoded images in, selected rows out, everything else on the device.

Its threads: each feeder decodes a batch while the lanes compute the ones before it, then queues
letterbox, forward and selection on a lane that is free; the finisher waits for the lanes in turn
and hands their rows on. None works on single images.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from pathlib import Path

import torch

from brimful.cuda.budget import Budget, knee, sizes_to_try
from brimful.cuda.captures import synchronize
from brimful.cuda.context import prepare_context
from brimful.cuda.memory import zeros
from brimful.errors import RuntimeFailedError
from brimful.log_slow import log_slow
from brimful.models.artifact import artifact
from brimful.models.model import Model
from brimful.runtimes.cuda.feeder import STAGES, Feeder, buckets
from brimful.runtimes.cuda.input.decode_balancer import DecodeBalancer
from brimful.runtimes.cuda.input.host_frames import open_host_frames
from brimful.runtimes.cuda.input.loader import Loader
from brimful.runtimes.cuda.input.pinned_files import PinnedFiles
from brimful.runtimes.cuda.input.video import open_video
from brimful.runtimes.cuda.lane import Lane
from brimful.runtimes.cuda.lane_job import LaneJob
from brimful.runtimes.cuda.network.forward import Network
from brimful.runtimes.cuda.network.network import CudaNetwork
from brimful.runtimes.cuda.sequencer import ForwardSequencer
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.cuda.techniques import DEFAULT, Techniques
from brimful.runtimes.runtime import (
    Done,
    InputFormat,
    OutOfMemoryError,
    Params,
    RuntimeOptions,
    Slot,
)
from brimful.runtimes.torch_eager import cuda_device
from brimful.spec import ModelSpec, Size
from brimful.vision.cuda.jpeg import JpegDecoder
from brimful.vision.decode import MemoryFor
from brimful.vision.header import Header

FILE_BYTES = 128 * 2**10
"""Of pinned memory for an image's file that are there from the start; more comes when needed."""

LANES = 2
"""Batches on the device: one computes, and one waits behind it or is being loaded."""

FEEDERS = 2
"""Batches that are decoded and launched at the same time."""

DEFAULT_BATCH, LARGE_BATCH = 64, 128
"""Images of a batch where nobody says: a large one costs the host half as much an image."""

LARGE_MEMORY = 15 * 2**30
"""Bytes of a device from which on batches are large."""

ROOM = 128 * 2**20
"""A driver has room for so many bytes of decoded images at least: one of 28 megapixels."""

ROOM_PER_IMAGE = 12 * 2**20
"""And so much for each image of a batch: a megapixel needs 4.5 MiB. Batches of larger ones go in
pieces. What images of the canvas's size do not need is taken when it is needed."""


class TorchCudaRuntime:
    """Executes a checkpoint's network with captured graphs of fused kernels."""

    name = "torch"
    input_format: InputFormat = "hwc_u8"
    concurrency = LANES
    partial_batches_below = (
        1  # a small batch costs the host as much as a full one, and the host feeds everything
    )
    prefetch = FEEDERS + 1

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
        prepare_context(self._device.index)
        self._precision = options.precision
        self._techniques = techniques
        self._preparing = threading.Lock()
        self._prepared: set[tuple[Size, int]] = set()
        self._lanes: list[Lane] = []
        self._sequencer: ForwardSequencer | None = None
        self._budget = None if options.memory is None else Budget(options.memory, self._device)
        with torch.cuda.device(self._device), torch.inference_mode():
            self._network = self._open_network(model, options)
            self.spec: ModelSpec = self._network.spec
            self._select = None
            if techniques.select and options.postprocess is not None:
                self._select = options.postprocess.of_model(self.spec)
            policy = options.policy(self.spec) if options.policy else None
            self._largest = policy.imgsz if policy else self.spec.imgsz
            self._canvases = policy.canvases() if policy else None
            self._balancer = DecodeBalancer()
            self._loaders: list[Loader] = []  # until the batch is known
            self._decoder: JpegDecoder | None = None
            self._memory = PinnedFiles()
            self.video, self._video_note = open_video(
                techniques, self.spec, self._device, budget=self._budget is not None
            )
            self.accepts_frame, self._host_frames_note = open_host_frames(
                techniques, self.spec, budget=self._budget is not None
            )
            try:
                self._fit(model, options)
            except BaseException:
                self._give_back()
                raise
        self._submitted: queue.SimpleQueue[LaneJob | None] = queue.SimpleQueue()
        self._flying: queue.SimpleQueue[LaneJob | None] = queue.SimpleQueue()
        self._feeders = [
            Feeder(
                loader,
                self._free,
                self._balancer,
                self._select,
                launched=self._flying.put,
                failed=self._abandon,
            )
            for loader in self._loaders
        ]
        self._threads = [threading.Thread(target=self._finish, name="brimful-cuda-finisher")]
        for i, feeder in enumerate(self._feeders):
            name = f"brimful-cuda-driver-{i}"
            self._threads.append(threading.Thread(target=self._drive, args=(feeder,), name=name))
        for thread in self._threads:
            thread.daemon = True
            thread.start()

    @property
    def accepts_encoded(self) -> Callable[[Header], bool] | None:
        """Tells whether the device decodes an image of this header."""
        return self._takes if self._loaders[0].accepts_encoded else None

    def _takes(self, header: Header) -> bool:
        return self._loaders[0].takes(header) and self._balancer.to_device()

    @property
    def pinned_for(self) -> MemoryFor | None:
        """Gives pinned memory, where the device decodes."""
        return self._memory.take if self._loaders[0].accepts_encoded else None

    @property
    def timings(self) -> dict[str, float]:
        """Seconds that the drivers have spent on each of `driver.STAGES`, on average."""
        count = len(self._feeders)
        return {
            stage: sum(feeder.timings[stage] for feeder in self._feeders) / count
            for stage in STAGES
        }

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> CudaSlot:
        """Make a slot; the first of a canvas captures its graphs, where that stops the lanes.

        Graphs of a network that is recorded are captured when a batch needs them: a job of few
        images needs few of them.
        """
        count = self.spec.fixed_batch or capacity or self.max_batch
        if not (self._network.recordable and self._techniques.graphs):
            with self._preparing:
                self._prepare(canvas, count)
        return CudaSlot(canvas, count, self.spec.channels)

    def prepare(self, canvas: Size) -> None:
        """Capture the graphs of a canvas."""
        with self._preparing:
            self._prepare(canvas, self.spec.fixed_batch or self.max_batch)

    def submit(self, slot: Slot, count: int, done: Done, params: Params = None) -> None:
        """Start the forward of the first `count` images, rounded up to the next graph."""
        assert isinstance(slot, CudaSlot)
        self._submitted.put(LaneJob(slot, count, done, params))

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
            "frames": self._host_frames_note,
            "forwards": LANES,
        }

    def close(self) -> None:
        """Drop graphs and network and give their memory back."""
        for _ in self._feeders:
            self._submitted.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(timeout=10)
        self._give_back()

    def _give_back(self) -> None:
        """Free the device's memory and lift the limit on it."""
        self._network.close()
        self._close_lanes()
        self._memory.close()
        if self._budget is not None:
            self._budget.release()

    def _open_network(self, model: Model, options: RuntimeOptions) -> Network:
        return CudaNetwork(model, options.precision, self._device, fused=self._techniques.fused)

    def _fit(self, model: Model, options: RuntimeOptions) -> None:
        """Make lanes and loader for a batch that fits the budget and is worth its memory."""
        if self._budget is not None:
            self._wake_libraries()
            self._budget.enforce()
        fixed = self.spec.fixed_batch or options.max_batch
        if fixed is None and self._budget is None and not options.tune_batch:
            memory = torch.cuda.get_device_properties(self._device).total_memory
            fixed = LARGE_BATCH if memory >= LARGE_MEMORY else DEFAULT_BATCH
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
            if options.tune_batch:
                self._tune(model)
            if self._budget is not None:
                for canvas in self._canvases or (self._largest,):
                    self._prepare(canvas, self.max_batch)
            return True
        except (torch.OutOfMemoryError, OutOfMemoryError):
            pass  # its traceback still holds tensors: they go with it, before the memory is freed
        self._close_lanes()
        return False

    def _open_lanes(self, batch: int) -> None:
        self.max_batch = batch
        sequencer = self._sequencer = ForwardSequencer(self._device)
        for _ in range(LANES):
            lane = Lane(self._network, batch, self._device, sequencer, self._techniques)
            self._lanes.append(lane)
        height, width = self._largest
        for lane in self._lanes:
            lane.reserve(batch * height * width * self.spec.channels)
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in self._lanes:
            self._free.put(lane)
        self._loaders, self._decode_note = self._open_loaders()

    def _close_lanes(self) -> None:
        synchronize(self._device)
        for loader in self._loaders:
            loader.close()
        if self._decoder is not None:
            self._decoder.close()
            self._decoder = None
        for lane in self._lanes:
            lane.close()
        if self._sequencer is not None:
            self._sequencer.close()
            self._sequencer = None
        self._lanes.clear()
        self._prepared.clear()
        self._free = queue.SimpleQueue()
        torch._C._cuda_clearCublasWorkspaces()  # they are kept per stream, for ever
        torch.cuda.empty_cache()

    def _tune(self, model: Model) -> None:
        """Go on with the smallest batch that is nearly as fast as the largest that fits."""
        device = torch.cuda.get_device_name(self._device)
        facts = {
            "model": model.digest,
            "runtime": self.name,
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
        shape = (1, side, side, self.spec.channels)
        images = zeros(shape, self._network.dtype, self._device).permute(0, 3, 1, 2)
        forward = self._network.on(torch.cuda.current_stream(self._device))
        forward.compile(images)
        forward(images)

    def _open_loaders(self) -> tuple[list[Loader], str]:
        """Return loaders with the device's decoder, or without where there is none."""
        channels = self.spec.channels
        note = "cpu"
        if self._techniques.decode and self.spec.task != "classify" and channels == 3:
            try:
                self._decoder = JpegDecoder(self._device)
                note = "gpu"
            except RuntimeFailedError as error:
                note = f"cpu ({error})"
        if self._decoder is not None:
            self._memory.reserve(self.max_batch * self.prefetch * FILE_BYTES)
        return [self._open_loader() for _ in range(FEEDERS)], note

    def _open_loader(self) -> Loader:
        batch = self.max_batch
        limit = max(ROOM, batch * ROOM_PER_IMAGE)
        height, width = self._largest
        initial = min(limit, 5 * batch * height * width)  # images of about the canvas's size
        if self._budget is not None:
            initial = limit = min(limit, self._budget.limit // (16 * FEEDERS))
        return Loader(
            batch,
            self.spec.channels,
            self._device,
            decoder=self._decoder,
            limit=limit,
            initial=initial,
            host_frames=self.accepts_frame is not None,
        )

    def _drive(self, feeder: Feeder) -> None:
        """Run a driver, until told to stop."""
        feeder.loop(self._submitted, self._device)
        self._flying.put(None)

    def _abandon(self, job: LaneJob, error: BaseException) -> None:
        """Give back what a batch holds that could not be launched, and tell why."""
        if job.lane is not None:
            with contextlib.suppress(RuntimeError):  # what was queued may still read its buffers
                synchronize(self._device)
            self._free.put(job.lane)
        job.done(None, error)

    # Finisher ---------------------------------------------------------------------------------

    def _finish(self) -> None:
        """Wait for the lanes in turn and hand on what they found, until the feeders stop."""
        running = len(self._feeders)
        while running:
            job = self._flying.get()
            if job is None:
                running -= 1
                continue
            lane = job.lane
            assert lane is not None
            try:
                lane.finished.synchronize()
                seconds = lane.seconds()  # before others get the lane
                outputs = job.collect()
            except BaseException as error:
                self._abandon(job, error)
            else:
                self._free.put(lane)
                job.done(outputs, None, seconds)
            del job, lane

    # Captures ---------------------------------------------------------------------------------

    def _prepare(self, canvas: Size, capacity: int) -> None:
        """Capture every graph of a canvas, once, the largest first: the others fit its memory."""
        if (canvas, capacity) in self._prepared:
            return
        # What runs on a stream that captures becomes part of the graph: take the lanes away first.
        lanes = [self._free.get() for _ in self._lanes]
        try:
            doing = f"capturing the graphs of canvas {canvas[0]}x{canvas[1]}, once a run"
            context = torch.cuda.device(self._device)
            with log_slow(doing), context, torch.inference_mode():
                for bucket in reversed(buckets(capacity, self.spec.fixed_batch)):
                    for lane in lanes:
                        lane.capture(canvas, bucket, self._select)
                synchronize(self._device)
                torch.cuda.empty_cache()  # what the warm-up took
            self._prepared.add((canvas, capacity))
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(str(error)) from error
        finally:
            for lane in lanes:
                self._free.put(lane)
