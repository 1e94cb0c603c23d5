"""StartEngine: how each process starts its engine."""

from __future__ import annotations

from typing import Protocol

from brimful.engine.engine import Engine


class StartEngine(Protocol):
    """Starts an engine on a device, such as `functools.partial(brimful.load, "yolo26n.pt")`.

    It is pickled, so it is a function of a module or a partial of one.
    """

    def __call__(self, *, device: str) -> Engine:
        """Start the engine."""
        ...
