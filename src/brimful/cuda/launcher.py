"""Launcher: runs the kernels of a network, or records what a forward launches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from brimful.cuda.launch import Launch
from brimful.cuda.program import KernelTable, Program

T = TypeVar("T")


class Launcher:
    """Runs launches, or collects them so that they can be compiled together and replayed."""

    def __init__(self, kernels: KernelTable | None = None) -> None:
        """Start in the mode that runs.

        Args:
            kernels: What has been compiled; nothing by default.
        """
        self._collected: list[Launch] | None = None
        self._kernels = kernels or KernelTable()

    def __call__(self, launch: Launch) -> None:
        """Run or collect a launch."""
        if self._collected is None:
            launch.run()
        else:
            self._collected.append(launch.detached())  # else the whole network's would be kept

    def compile(self, forward: Callable[[], object]) -> None:
        """Compile what a forward launches; what it computes is garbage."""
        self._kernels.compile(self._collect(forward)[1])

    def record(self, forward: Callable[[], T]) -> tuple[Program, T]:
        """Collect what a forward launches, compile it, and return it with the forward's result.

        Memory that the forward takes and frees on its way is used again by what it takes later, as
        when it runs: the program is right as long as nobody else gets that memory.

        Args:
            forward: Does nothing on the device but by this launcher.
        """
        result, launches = self._collect(forward)
        return self._kernels.bind(launches), result

    def _collect(self, forward: Callable[[], T]) -> tuple[T, list[Launch]]:
        self._collected = []
        try:
            result = forward()
            return result, self._collected
        finally:
            self._collected = None
