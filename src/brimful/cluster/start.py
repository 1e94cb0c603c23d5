"""start_engines: an engine in this process, or one in a process of its own for each device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from brimful.cluster.devices import cpu_share, worker_share
from brimful.cpus import available_cpus
from brimful.engine.engine import Engine
from brimful.engine.predictor import Predictor


def start_engines(
    start: Callable[..., Engine],
    devices: Sequence[str],
    model: Path | None,
    *,
    threads: int | None,
    workers: int | None,
) -> Predictor:
    """Start an engine on every device.

    Args:
        start: Takes `device`, `threads` and `workers`, as `brimful.load` does; it is pickled where
            there are several devices.
        devices: `cpu` or `cuda:INDEX` each.
        model: The model's file.
        threads: CPU threads of each forward; None takes all, or of several devices a share each.
        workers: Decode threads of each engine; None likewise.

    Returns:
        The engine itself for one device.

    Raises:
        BrimfulError: What starting an engine raised.
    """
    if len(devices) == 1:
        return start(device=devices[0], threads=threads, workers=workers)
    from brimful.cluster.pool import EnginePool  # a single engine has no use for it

    cpus = available_cpus()
    shared = functools.partial(
        start,
        threads=threads or cpu_share(cpus, len(devices)),
        workers=workers or worker_share(cpus, len(devices)),
    )
    # A checkpoint that runs on the CPU is converted once and kept; the GPU reads it as it is.
    converts = model is not None and model.suffix == ".pt" and devices[0] == "cpu"
    return EnginePool(shared, devices, first_alone=converts)
