"""Driver: takes one batch after the other to the device. Several of them share the lanes.

While one driver waits for its decoder, the other launches: half of what a decode costs is the
host's, in calls of the library that release the interpreter.
"""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Callable

import torch

from brimful.runtimes.cuda.input.decode_balancer import DecodeBalancer
from brimful.runtimes.cuda.input.loader import Loader
from brimful.runtimes.cuda.lane import Lane
from brimful.runtimes.cuda.lane_job import LaneJob
from brimful.runtimes.runtime import OutOfMemoryError
from brimful.vision.heads.config import PostprocessConfig

STAGES = ("idle", "decode", "wait for the model", "launch")


class Feeder:
    """A loader of its own, and the way of a batch from the host to a lane.

    Attributes:
        timings: Seconds spent waiting for a batch, on decoding, waiting for a free lane, and on
            launching. It waits for lanes where the model limits, and does not where decode does.
    """

    def __init__(
        self,
        loader: Loader,
        lanes: queue.SimpleQueue[Lane],
        split: DecodeBalancer,
        select: PostprocessConfig | None,
        *,
        launched: Callable[[LaneJob], None],
        failed: Callable[[LaneJob, BaseException], None],
    ) -> None:
        """Put it together; a thread runs `loop`.

        Args:
            loader: No other driver uses it.
            lanes: The free ones.
            split: Told of every batch.
            select: How graphs select that must be captured on the way, as `Lane.capture` has it.
            launched: Told of a batch that is on its way.
            failed: Told of one that could not be launched, and why.
        """
        self._loader = loader
        self._lanes = lanes
        self._balancer = split
        self._select = select
        self._launched = launched
        self._failed = failed
        self.timings = dict.fromkeys(STAGES, 0.0)

    def loop(self, submitted: queue.SimpleQueue[LaneJob | None], device: torch.device) -> None:
        """Decode and launch what is submitted, until told to stop."""
        with torch.cuda.device(device), torch.inference_mode():
            while True:
                begun = time.perf_counter()
                job = submitted.get()
                if job is None:
                    return
                try:
                    self.launch(job, time.perf_counter() - begun)
                except torch.OutOfMemoryError as error:
                    self._failed(job, OutOfMemoryError(str(error)))
                except BaseException as error:
                    self._failed(job, error)
                else:
                    self._launched(job)
                del job  # an idle thread keeps no image alive

    def launch(self, job: LaneJob, idle_s: float) -> None:
        """Decode a batch, wait for a lane, and queue all that computes it.

        Args:
            job: The batch; gets its lane.
            idle_s: Seconds that the driver had waited for it.
        """
        slot, count = job.slot, job.count
        begun = time.perf_counter()
        pieces = self._loader.pieces(slot, count, job.errors)
        first = next(pieces, None)  # decodes while the lanes are busy
        decoded = time.perf_counter()
        lane = job.lane = self._lanes.get()
        waited = time.perf_counter()
        sizes = buckets(slot.capacity, lane.fixed_batch)
        job.graph = graph = lane.graph_for(slot.canvas, count, sizes, self._select)
        loaded = 0
        if first is not None:
            for piece in itertools.chain((first,), pieces):
                loaded = self._loader.load(piece, lane, graph, loaded)
        lane.run(graph, slot, count, job.params)
        spent = (idle_s, decoded - begun, waited - decoded, time.perf_counter() - waited)
        for stage, seconds in zip(STAGES, spent, strict=True):
            self.timings[stage] += seconds
        self._balancer.observe(count, decode_s=spent[1], wait_s=spent[2], idle_s=idle_s)


def buckets(capacity: int, fixed: int | None = None) -> list[int]:
    """Return the batch sizes that have a graph: powers of four, half the capacity, the capacity.

    Args:
        capacity: Images that a slot holds.
        fixed: The only batch that the model can run, or None.
    """
    if fixed is not None:
        return [fixed]
    sizes = {1, capacity, max(1, capacity // 2)}
    size = 4
    while size < capacity // 2:
        sizes.add(size)
        size *= 4
    return sorted(sizes)
