"""Placement: the devices that `auto` and `all` stand for, for a model and a runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from brimful.errors import UsageError
from brimful.extras import installed, installed_version
from brimful.gpus import Gpus, find_gpus, torch_cuda
from brimful.models.model import Model
from brimful.runtimes.registry import RUNTIMES, Entry


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model runs.

    Attributes:
        devices: `cpu` or `cuda:INDEX` each.
        hint: What would use the machine better, in words; "" for nothing.
    """

    devices: tuple[str, ...]
    hint: str = ""


def place(
    device: str,
    runtime: str,
    model: Model | None,
    *,
    look: Callable[[], Gpus] = find_gpus,
    lacks: Callable[[Entry, Gpus], str] | None = None,
) -> Placement:
    """Return the devices that a word stands for.

    Args:
        device: `auto`: the first GPU if there is one that can run the model, else the CPU. `all`:
            every GPU. Anything else stands for itself.
        runtime: A runtime's name, or `auto`.
        model: The model; None for none.
        look: Finds GPUs.
        lacks: Tells what a runtime lacks here to run on a GPU; `lacks_for_cuda` by default.

    Raises:
        UsageError: `all` where no GPU can be used; the message says why.
    """
    if device not in ("auto", "all"):
        return Placement((device,))
    takers = [
        entry
        for entry in RUNTIMES
        if model is not None
        and entry.takes(model.format, "cuda")
        and runtime in ("auto", entry.name)
    ]
    gpus = look() if takers or device == "all" else Gpus()
    why = ""
    if gpus.count:
        wanting = [(lacks or lacks_for_cuda)(entry, gpus) for entry in takers]
        if "" in wanting:
            every = tuple(f"cuda:{index}" for index in range(gpus.count))
            if device == "all" or gpus.count == 1:
                return Placement(every)
            return Placement(
                every[:1],
                f"GPU 0 of {gpus.count} is used, the others are idle; --device all uses every one",
            )
        why = wanting[0] if wanting else "neither this runtime nor this model runs on a GPU"
    if device == "all":
        raise UsageError(
            "--device all means every GPU, and "
            + (f"none can be used: {why}" if why else "this process has none")
            + "; use --device auto or cpu"
        )
    return Placement(("cpu",), f"a GPU is here and is not used: {why}" if why else "")


def lacks_for_cuda(entry: Entry, gpus: Gpus) -> str:
    """Tell what a runtime lacks to run on these GPUs, in words; "" for nothing."""
    also = ("triton",) if entry.name == "torch" else entry.also
    missing = [module for module in (entry.module, *also) if not installed(module)]
    if not missing and entry.distributions and installed_version(*entry.distributions) is None:
        missing = list(entry.distributions)
    if missing:
        return f"{' and '.join(missing)} would be needed: pip install 'brimful[{entry.extra}]'"
    built = torch_cuda()
    if built is None:
        return "the installed PyTorch is a build without CUDA"
    if gpus.cuda < built:
        return (
            f"the installed PyTorch is built for CUDA {built}, and the driver only goes up to "
            f"CUDA {gpus.cuda}"
        )
    return ""
