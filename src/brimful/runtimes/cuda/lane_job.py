"""LaneJob: a batch on its way through the device."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from brimful.errors import RuntimeFailedError
from brimful.runtimes.cuda.lane import Graph, Lane
from brimful.runtimes.cuda.slot import CudaSlot
from brimful.runtimes.runtime import Done, Outputs, Params
from brimful.vision.heads.selected import Selected


@dataclass(slots=True)
class LaneJob:
    """A batch on its way through the device.

    Attributes:
        slot: Its images.
        count: How many.
        done: Told how it ended.
        params: What becomes a detection in each image, where not all take the engine's setting.
        errors: Why images of it could not be decoded, by position.
        lane: Computes it; None before it has one.
        graph: The lane's, likewise.
    """

    slot: CudaSlot
    count: int
    done: Done
    params: Params = None
    errors: dict[int, str] = field(default_factory=dict)
    lane: Lane | None = None
    graph: Graph | None = None

    def collect(self) -> Outputs:
        """Return what was found, once the lane has finished.

        Raises:
            RuntimeFailedError: An image could not be decoded, and the host selects: the engine
                runs the others again, each on its own.
        """
        assert self.graph is not None and self.lane is not None
        arrays = [host.numpy()[: self.count] for host in self.slot.outputs]
        if self.graph.select is not None:
            rows = self.graph.select.rows(self.count)
            if self.graph.masks is not None:
                again = partial(self.lane.again, self.graph)
                masks = self.graph.masks.masks(self.graph.select.found(self.count), again)
                return Selected(rows=rows, masks=masks, errors=self.errors)
            return Selected(rows=rows, arrays=arrays, errors=self.errors)
        if self.errors:
            raise RuntimeFailedError("; ".join(self.errors.values()))
        return arrays
