"""Program: the launches of a forward, bound to kernels and addresses, to be captured quickly.

Python walks a network once to find out what it launches; to queue the same launches again takes a
few microseconds each.
"""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from brimful.cpus import available_cpus
from brimful.cuda.launch import Launch
from brimful.cuda.machine_code import (
    Bound,
    Function,
    TritonFunction,
    kept_code,
    machine_code,
    variant,
)
from brimful.log_slow import log_slow


class KernelTable:
    """Compiled kernels of one device, by what Triton compiles a launch for."""

    def __init__(self) -> None:
        """Begin with none."""
        self._functions: dict[Hashable, Function | TritonFunction] = {}

    def compile(self, launches: Sequence[Launch]) -> None:
        """Compile what launches need, side by side, or find it in the artifact cache."""
        missing = {variant(launch): launch for launch in launches}
        missing = {key: one for key, one in missing.items() if key not in self._functions}
        if not missing:
            return
        major, minor = torch.cuda.get_device_capability()
        architecture = f"sm_{major}{minor}"
        for key, launch in list(missing.items()):
            code = kept_code(launch, architecture)
            if code is not None:
                self._functions[key] = Function(code)
                del missing[key]
        if not missing:
            return
        doing = f"compiling {len(missing)} kernels for the GPU, once; the result is kept"
        workers = min(available_cpus(), len(missing))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="brimful-compile")
        with log_slow(doing), pool:
            codes = [pool.submit(machine_code, one, architecture) for one in missing.values()]
            for (key, launch), made in zip(missing.items(), codes, strict=True):
                code = made.result()
                self._functions[key] = Function(code) if code else TritonFunction(launch.compile())

    def bind(self, launches: Sequence[Launch]) -> Program:
        """Return launches as a program; what they need is on the device afterwards."""
        self.compile(launches)
        return Program([self._functions[variant(launch)].bind(launch) for launch in launches])


class Program:
    """Launches in order. What they read and write must stay where it was."""

    def __init__(self, launches: Sequence[Bound]) -> None:
        """Keep the launches."""
        self._launches = tuple(launches)

    def __len__(self) -> int:
        """Return how many launches there are."""
        return len(self._launches)

    def run(self, stream: int) -> None:
        """Queue every launch.

        Args:
            stream: Handle of a CUDA stream of the current device.

        Raises:
            RuntimeFailedError: The driver refuses.
        """
        handle = ctypes.c_void_p(stream)
        for launch in self._launches:
            launch(handle)
