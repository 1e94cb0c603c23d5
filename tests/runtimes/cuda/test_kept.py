"""Fused networks in the artifact cache, and the layers that they consist of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from brimful.models.model import Model, ModelOptions, open_model
from model_files import artifact_cache, saved

pytest.importorskip("triton")

__all__ = ["artifact_cache"]


def network_of(model: Model) -> Any:
    from brimful.runtimes.cuda.network.network import CudaNetwork

    return CudaNetwork(model, "fp16", "cpu")


def test_a_network_is_read_and_fused_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from brimful.models import checkpoint

    model = open_model(saved("yolo26n.yaml"))
    first = network_of(model)
    assert first.recordable

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("the checkpoint is read")

    monkeypatch.setattr(checkpoint, "load_checkpoint", refuse)
    again = network_of(model)
    assert again.spec == first.spec and again.recordable
    weights, expected = again._network.state_dict(), first._network.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    with pytest.raises(AssertionError, match="the checkpoint is read"):
        network_of(open_model(saved("yolo26n.yaml"), ModelOptions(max_det=301)))


def test_what_is_kept_needs_no_ultralytics(tmp_path: Path) -> None:
    """It is loaded where the module cannot be imported."""
    path = saved("yolo26n.yaml")
    network_of(open_model(path))
    code = (
        "import sys; sys.modules['ultralytics'] = None\n"
        "from brimful.models.model import open_model\n"
        "from brimful.runtimes.cuda.network.network import CudaNetwork\n"
        f"print(CudaNetwork(open_model({str(path)!r}), 'fp16', 'cpu').recordable)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_a_network_with_parts_of_others_is_not_kept(artifact_cache: Path) -> None:
    """The head of a YOLOv8 stays Ultralytics'."""
    before = set(artifact_cache.glob("network-*"))
    model = open_model(saved("yolov8n.yaml"))
    assert not network_of(model).recordable
    assert set(artifact_cache.glob("network-*")) == before


class Times(nn.Module):
    """Adds what it is given, times a number."""

    def __init__(self, factor: float, source: Any) -> None:
        super().__init__()
        self.factor, self.f = factor, source

    def forward(self, x: Any) -> Any:
        return self.factor * (sum(x) if isinstance(x, list) else x)


def test_layers_read_the_outputs_that_they_name() -> None:
    from brimful.runtimes.cuda.network.layers import FusedLayers

    layers = [Times(2, -1), Times(3, -1), Times(5, 0), Times(7, [-1, 1]), Times(11, [0, -1, 2])]
    found = FusedLayers(layers, [0, 1, 2])(torch.tensor(1.0))
    zero, one, two = 2.0, 6.0, 10.0
    three = 7 * (two + one)
    assert float(found) == 11 * (zero + three + two)


def test_a_head_makes_its_table_before_it_is_recorded() -> None:
    """What a forward makes of memory is every graph's, so that none of it may stay."""
    from brimful.cuda.launcher import Launcher
    from brimful.runtimes.cuda.network.head import NmsFreeHead

    last: Any = nn.Sequential(nn.Identity())
    last[-1].channels_out = 3
    head = NmsFreeHead([last] * 3, [last] * 3, [8.0, 16.0, 32.0], 50, Launcher())
    head.prepare((64, 96), torch.device("cpu"))
    sizes = ((8, 12), (4, 6), (2, 3))
    (made,) = head._tables.values()
    assert head._table(sizes, torch.device("cpu")) is made
    assert made.tolist() == [[0, 12, 8], [96, 6, 16], [120, 3, 32]]
