"""A network with fused kernels against the same network as PyTorch runs it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from brimful.models.checkpoint import load_checkpoint
from brimful.models.signature import SpecOverrides
from model_files import saved

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NETWORKS = ("yolo26n.yaml", "yolov8n-seg.yaml", "yolo11n-obb.yaml", "yolo26n-pose.yaml")


def network(path: Path) -> Any:
    loaded = load_checkpoint(
        path, nms=None, overrides=SpecOverrides(task=None, names=None), trust=False
    )
    return loaded.network


@pytest.mark.parametrize("name", NETWORKS)
def test_same_outputs_as_the_network(name: str) -> None:
    from brimful.runtimes.cuda.network.fuse import Launcher, fuse
    from brimful.runtimes.cuda.network.network import _lower

    plain = network(saved(name))
    fused = copy.deepcopy(plain)
    _lower(fused, torch.float16)
    fuse(fused, Launcher(), torch.float16)
    left = [m for m in fused.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
    assert not left, f"not fused: {left}"  # only the fixed weights of box decoding may stay
    images = torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    half = images.half().contiguous(memory_format=torch.channels_last)
    wanted, found = run(plain, images), run(fused, half)
    assert [f.shape for f in found] == [w.shape for w in wanted]
    assert len(wanted) >= 3
    for f, w in zip(found, wanted, strict=True):
        # Random weights; half precision through a hundred layers.
        assert (f - w).abs().median() <= 2e-3 * w.abs().max()
        assert torch.corrcoef(torch.stack((f.flatten(), w.flatten())))[0, 1] > 0.995


def run(network: Any, images: Any) -> list[Any]:
    """Return what the head reads, and what it says unless near-ties may swap its rows."""
    read: list[Any] = []
    head = network.model[-1]
    head.register_forward_pre_hook(lambda module, inputs: read.extend(inputs[0]))
    with torch.inference_mode(), np.errstate(all="ignore"):
        raw = network.to(DEVICE)(images)
    outputs = raw if isinstance(raw, tuple | list) else (raw,)
    found = [output for output in outputs if torch.is_tensor(output)]
    is_rows = found[0].shape[1] <= 300 and found[0].shape[2] < 100
    return [x.float() for x in (*read, *([] if is_rows else found))]


class Given(nn.Module):
    """The last convolution of a branch, with its result given."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result, self.channels_out = result, result.shape[1]

    def forward(self, x: Any, out: Any = None) -> Any:
        return self.result if out is None else out.copy_(self.result)


def test_the_head_selects_and_decodes_as_the_reference_does() -> None:
    from brimful.runtimes.cuda.network.fuse import Launcher
    from brimful.runtimes.cuda.network.head import NmsFreeHead

    head = network(saved("yolo26n.yaml")).model[-1]
    head.max_det = 50
    generator = torch.Generator().manual_seed(4)
    sizes = ((8, 12), (4, 6), (2, 3))
    levels = [torch.zeros(3, 8, *size) for size in sizes]
    boxes = [4 * torch.rand(3, 4, *size, generator=generator) for size in sizes]
    scores = [3 * torch.randn(3, 5, *size, generator=generator) for size in sizes]
    scores[0][:, 2] = scores[0][:, 1] - 0.01  # an anchor may count twice, for two classes
    head.one2one_cv2 = nn.ModuleList(nn.Sequential(Given(box)) for box in boxes)
    head.one2one_cv3 = nn.ModuleList(nn.Sequential(Given(score)) for score in scores)
    raw = head(levels)
    wanted = raw[0] if isinstance(raw, tuple) else raw
    strides = [float(stride) for stride in head.stride]
    mine = NmsFreeHead(list(head.one2one_cv2), list(head.one2one_cv3), strides, 50, Launcher())
    assert wanted.shape == (3, 50, 6)
    torch.testing.assert_close(mine(levels), wanted, rtol=1e-6, atol=1e-5)


def test_unknown_blocks_stay() -> None:
    from brimful.runtimes.cuda.network.fuse import Launcher, fuse

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=2)
            self.act = nn.SiLU()

    class Conv(Odd):
        pass

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = nn.Sequential(Odd(), Conv(), nn.Identity())
            self.save: list[int] = []

    mine = Network().half()
    fuse(mine, Launcher(), torch.float16)
    assert [type(m).__name__ for m in mine.model] == ["Odd", "Conv", "Identity"]
