"""Fused networks in the artifact cache: read in a tenth of a second, and without Ultralytics.

To open a checkpoint takes Ultralytics' modules, a forward on the CPU that tells its outputs, and
the fusing. What comes out of it is the same at every start.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from brimful.cuda import launcher
from brimful.extras import installed_version
from brimful.models import checkpoint
from brimful.models.artifact import artifact
from brimful.models.model import Model
from brimful.runtimes.cuda.network.layers import FusedLayers
from brimful.spec import ModelSpec

Opened = tuple[ModelSpec, Any]
"""What a model is, and its network on the CPU, fused."""


class _HasForeignPartsError(Exception):
    """A network cannot be kept: a part of it is Ultralytics' own."""


def kept_network(model: Model, precision: str, open_network: Callable[[], Opened]) -> Opened:
    """Return a fused network, from the artifact cache where it can be kept there.

    Args:
        model: The checkpoint's file.
        precision: Of the weights.
        open_network: Reads and fuses it; called if the cache does not have it.

    Returns:
        The network as `FusedLayers`, if all of its parts are ours, else as it was opened.

    Raises:
        ModelError: The file cannot be read.
        UsageError: The cache cannot be used.
    """
    opened: list[Opened] = []

    def build(folder: Path) -> None:
        spec, network = open_network()
        if not FusedLayers.takes(network):
            opened.append((spec, network))
            raise _HasForeignPartsError
        layers = FusedLayers(network.model, network.save)
        torch.save((spec, layers), folder / "network")

    options = model.options
    facts = {
        "model": model.digest,
        "nms": options.nms,
        "max_det": options.max_det,
        "names": options.overrides.names,
        "task": options.overrides.task,
        "trust": options.trust,
        "precision": precision,
        "code": _code(),
        "torch": torch.__version__,
        "ultralytics": installed_version("ultralytics-opencv-headless", "ultralytics"),
    }
    try:
        # Classes of ours are in it by name: it is read by the ordinary unpickler, as code is.
        content = (artifact("network", facts, build, runs=True) / "network").read_bytes()
    except _HasForeignPartsError:
        return opened[0]
    spec, layers = torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    return spec, layers


def _code() -> str:
    """Return a digest of the code that decides what is kept."""
    digest = hashlib.sha256()
    for source in (__file__, checkpoint.__file__, launcher.__file__):
        for file in sorted(Path(source).parent.glob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
