"""Launcher: runs the kernels of a network, or compiles them side by side."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from brimful.cpus import available_cpus
from brimful.cuda.launch import Launch
from brimful.log_slow import log_slow


class Launcher:
    """Runs launches, or collects them so that their kernels can be compiled side by side."""

    def __init__(self) -> None:
        """Start in the mode that runs."""
        self._collected: list[Launch] | None = None

    def __call__(self, launch: Launch) -> None:
        """Run or collect a launch."""
        if self._collected is None:
            launch.run()
        else:
            self._collected.append(launch.detached())  # else the whole network's would be kept

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Collect the launches of a forward, whose results are then garbage, and compile them."""
        self._collected = []
        try:
            yield
            collected = self._collected
        finally:
            self._collected = None
        distinct = {
            (id(launch.kernel), tuple(launch.constants.items())): launch for launch in collected
        }
        doing = f"compiling {len(distinct)} kernels for the GPU, once; Triton keeps them"
        workers = ThreadPoolExecutor(available_cpus(), thread_name_prefix="brimful-compile")
        with log_slow(doing), workers as pool:
            for finished in [pool.submit(launch.compile) for launch in distinct.values()]:
                finished.result()
