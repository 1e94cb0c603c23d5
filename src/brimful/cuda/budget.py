"""Budget: a limit on the device memory of this process, and how a batch is fitted to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from brimful.cuda.captures import synchronize
from brimful.errors import MemoryBudgetError
from brimful.memory.nvml import DeviceMemory
from brimful.memory.size import show_bytes
from brimful.spec import Size

SLACK = 64 * 2**20
"""Left free for what libraries load after the measurement: code of kernels not run yet."""

LARGEST_BATCH = 128
"""Where `batch=auto` begins; larger ones were not measured."""

KNEE = 0.95
"""Share of the best rate that the chosen batch must reach."""


_budgets_lock = threading.Lock()
_shares: dict[int, dict[int, float]] = {}
"""What each budget of a device allows PyTorch, whose limit is the process's, not an engine's."""


class Budget:
    """Device memory that this process may hold, the driver's and the libraries' part included.

    What PyTorch allocates can be limited; what the driver and the libraries take cannot, so it is
    measured once they are all awake, and PyTorch gets the rest.
    """

    def __init__(self, limit: int, device: Any) -> None:
        """Prepare to keep a limit.

        Args:
            limit: Bytes.
            device: CUDA device.
        """
        self.limit = limit
        self._device = device
        self._memory = DeviceMemory(str(torch.cuda.get_device_properties(device).uuid))
        self._outside = 0

    def _limit_torch(self, share: float) -> None:
        """Limit PyTorch to a share of the device's memory, or less where another budget says so."""
        with _budgets_lock:
            _shares.setdefault(self._device.index, {})[id(self)] = share
            _apply(self._device)

    def enforce(self) -> None:
        """Limit PyTorch to what is left of the budget. Kernels must have run before.

        Raises:
            MemoryBudgetError: Nothing is left.
        """
        synchronize(self._device)
        torch.cuda.empty_cache()
        self._outside = self._memory.process() - torch.cuda.memory_reserved(self._device)
        left = self.limit - self._outside - SLACK
        if left <= torch.cuda.memory_reserved(self._device):
            raise MemoryBudgetError(
                f"gpu_mem of {show_bytes(self.limit)} is too small: the CUDA context and its "
                f"libraries take {show_bytes(self._outside)}, {show_bytes(SLACK)} stay free for "
                f"kernels, and the weights take "
                f"{show_bytes(torch.cuda.memory_reserved(self._device))}; raise --gpu-mem"
            )
        self._limit_torch(left / torch.cuda.get_device_properties(self._device).total_memory)

    def share(self, own: int) -> int:
        """Limit PyTorch to a part of what is left of the budget.

        Args:
            own: Bytes for PyTorch.

        Returns:
            The other part, in bytes, for whoever allocates besides PyTorch; not above 0 when the
            part for PyTorch does not fit, and then nothing has changed.
        """
        rest = self.limit - self._outside - SLACK - own
        if rest > 0:
            self._limit_torch(own / torch.cuda.get_device_properties(self._device).total_memory)
        return rest

    def exceeded(self, batch: int, canvas: Size, precision: str) -> MemoryBudgetError:
        """Return the error of a batch that does not fit, with the arithmetic."""
        left = self.limit - self._outside - SLACK
        return MemoryBudgetError(
            f"batch {batch} at {canvas[0]}x{canvas[1]} in {precision} does not fit gpu_mem of "
            f"{show_bytes(self.limit)}: the CUDA context and its libraries take "
            f"{show_bytes(self._outside)}, {show_bytes(SLACK)} stay free for kernels, which leaves "
            f"{show_bytes(left)} for weights, decoded images, inputs and activations. Use "
            "--batch auto, a smaller --batch or --imgsz, or raise --gpu-mem"
        )

    def release(self) -> None:
        """Lift this limit on PyTorch; those of other engines of this process stay."""
        with _budgets_lock:
            if _shares.get(self._device.index, {}).pop(id(self), None) is not None:
                _apply(self._device)


def _apply(device: Any) -> None:
    """Limit PyTorch to the smallest share that a budget of the device allows."""
    share = min(_shares[device.index].values(), default=1.0)
    torch.cuda.set_per_process_memory_fraction(share, device)


def sizes_to_try(asked: int | None) -> Iterator[int]:
    """Yield the batch sizes to try: the one that was asked for, or halves from the largest."""
    if asked is not None:
        yield asked
        return
    size = LARGEST_BATCH
    while size:
        yield size
        size //= 2


def knee(rates: Mapping[int, float]) -> int:
    """Return the smallest batch that is nearly as fast as the best one.

    Args:
        rates: Images per second of each batch size.
    """
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= KNEE * best)
