"""How large a network is when each of its modules is visited by every path to it.

Modules may be shared, and PyTorch converts a network by walking every path: a file of a few
kilobytes can hold a graph whose walk never ends.
"""

from __future__ import annotations

from typing import Any

from brimful.errors import ModelError

MAX_VISITS = 100_000
"""Modules that a walk may visit. The largest YOLO has a few thousand."""


def check_module_graph(network: Any) -> None:
    """Refuse a network whose modules contain themselves, or whose walk would take too long.

    Args:
        network: A torch.nn.Module.

    Raises:
        ModelError: Saying which of the two.
    """
    visits: dict[int, int] = {}  # of a module and all below it, once it is known
    open_: set[int] = set()
    pending: list[tuple[Any, bool]] = [(network, False)]
    while pending:
        module, below_done = pending.pop()
        children = _children(module)
        if below_done:
            open_.discard(id(module))
            visits[id(module)] = 1 + sum(visits[id(child)] for child in children)
            if visits[id(module)] > MAX_VISITS:
                raise ModelError(
                    f"the checkpoint's network visits more than {MAX_VISITS} modules, because some "
                    "contain others many times over; no YOLO does"
                )
        elif id(module) in open_:
            raise ModelError("the checkpoint's network has a module that contains itself")
        elif id(module) not in visits:
            open_.add(id(module))
            pending.append((module, True))
            pending += [(child, False) for child in children]


def _children(module: Any) -> list[Any]:
    children = vars(module).get("_modules")
    return [child for child in (children or {}).values() if child is not None]
