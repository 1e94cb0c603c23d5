"""What a fused NMS-free detector runs launches none of PyTorch's kernels.

The first of these costs a device 92 MiB. Here PyTorch's operations are watched while our kernels
run in Triton's interpreter; tests/runtimes/test_cuda_kernels.py looks at a device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from brimful.models.model import ModelOptions, open_model
from brimful.spec import ModelSpec
from brimful.vision.geometry import Geometry
from brimful.vision.heads.config import PostprocessConfig
from dispatched import Dispatched
from model_files import saved

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a GPU the kernels themselves are looked at"
)


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x + 1,
        lambda x: x.float(),
        lambda x: x.zero_(),
        lambda x: x.fill_(3),
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: torch.empty_like(x).copy_(x.mT.contiguous().mT),
        lambda x: torch.empty(2, 3, 8, 8).copy_(x),
        lambda x: x[:, :, 1:3].clone(),
        lambda x: x.topk(2),
        lambda x: torch.zeros(3),
        lambda x: torch.cat((x, x)),
    ],
)
def test_what_computes_is_noticed(compute: Any) -> None:
    x = torch.rand(2, 3, 8, 8).half()
    with torch.inference_mode(), Dispatched() as seen:
        compute(x)
    assert seen.computed


def test_what_does_not_is_not() -> None:
    x = torch.rand(2, 3, 8, 8)
    with torch.inference_mode(), Dispatched() as seen:
        torch.empty(2, 3, 8, 8).copy_(x)
        x.permute(0, 2, 3, 1)[1:].select(0, 0)
        x.float().contiguous().to("cpu").view(-1).split(3)
    assert seen.computed == []


def network(*, fused: bool = True) -> Any:
    from brimful.runtimes.cuda.network.network import CudaNetwork

    model = open_model(saved("yolo26n.yaml"), ModelOptions())
    return CudaNetwork(model, "fp16", torch.device("cpu"), fused=fused)


def test_the_head() -> None:
    fused = network()
    channels = [len(branch[0].weight) // 9 for branch in fused.head.boxes]
    levels = [
        torch.rand(1, count, *size).half().contiguous(memory_format=torch.channels_last)
        for count, size in zip(channels, ((4, 8), (2, 4), (1, 2)), strict=True)
    ]
    with torch.inference_mode(), np.errstate(all="ignore"), Dispatched() as seen:
        rows = fused.head(levels)
    assert rows.shape == (1, 42, 6)
    assert seen.computed == []


def test_the_whole_network() -> None:
    fused = network()
    images = torch.rand(1, 3, 32, 64).half().contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), np.errstate(all="ignore"), Dispatched() as seen:
        (rows,) = fused(images)
    assert rows.shape == (1, 42, 6)
    assert seen.computed == []


def test_letterbox_and_selection() -> None:
    from brimful.vision.cuda.letterbox import COLUMNS, describe, letterbox
    from brimful.vision.cuda.select import DeviceSelect

    pixels = np.full((8, 12, 3), 200, np.uint8)
    table = np.zeros((1, COLUMNS), np.int64)
    whole = Geometry((8, 12), (32, 64), (32, 48), 0, 8)
    describe(table[0], pixels.ctypes.data, (36, 3, 1), whole, 0)
    images = torch.empty((1, 3, 32, 64)).contiguous(memory_format=torch.channels_last)
    spec = ModelSpec(task="detect", head="nms_free", names=("a", "b"))
    select = DeviceSelect(spec, PostprocessConfig(conf=0.5), 1, 3, "cpu")
    output = torch.tensor([[[1.0, 2, 3, 4, 0.9, 1], [1, 2, 3, 4, 0.8, 0], [1, 2, 3, 4, 0.4, 1]]])
    live = torch.ones(1, dtype=torch.int32)
    with torch.inference_mode(), np.errstate(all="ignore"), Dispatched() as seen:
        letterbox(torch.from_numpy(table), images, count=1)
        select.configure([PostprocessConfig(conf=0.5, classes=(1,))])
        select.launch(output, live)
    assert images[0, :, 0, 0].tolist() == pytest.approx([114 / 255] * 3)
    assert select.found(1).tolist() == [1]
    assert seen.computed == []


@pytest.mark.parametrize("fused", [True, False])
def test_weights_are_laid_out_before_they_move(
    fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What moves is laid out as it shall be there, for which a device would need a kernel."""
    moved: list[torch.Tensor] = []
    move = torch.nn.Module.to

    def to(module: Any, *where: Any, **how: Any) -> Any:
        if where and isinstance(where[0], torch.device):
            assert not how
            moved.extend([*module.parameters(), *module.buffers()])
        return move(module, *where, **how)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    network(fused=fused)
    assert len(moved) > 100
    assert fused or sum(tensor.ndim == 4 for tensor in moved) > 50
    for tensor in moved:
        channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        assert channels_last if tensor.ndim == 4 else tensor.is_contiguous()
