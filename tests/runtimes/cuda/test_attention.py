"""Fused attention: the kernel against float64, the blocks against Ultralytics' own."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from brimful.models.checkpoint import load_checkpoint
from brimful.models.signature import SpecOverrides
from dispatched import Dispatched
from interpreter import sum_products_in_order
from model_files import saved
from oracles import asset, shared

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let Triton's interpreter compute in bfloat16 as a GPU does, and warn of nothing.

    It multiplies the bits as if they were integers, and cuts them off where a GPU rounds. Products
    are summed in a fixed order, whatever numpy's matrix product does on this CPU.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    sum_products_in_order(monkeypatch)
    multiply, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def widened(handle: Any) -> Any:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, widened(a), widened(b), *rest)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if (source.dtype.scalar, target.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, source, target)
        bits = np.ascontiguousarray(source.data).view(np.uint32)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return TensorHandle(nearest.astype(np.uint16), tl.bfloat16)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast_impl)
    with np.errstate(all="ignore"):
        yield


def random_map(*shape: int, seed: int = 0, dtype: Any = torch.float16) -> Any:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


def attended(
    x: Any, heads: int, key_dim: int, head_dim: int, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return attention in float64, head by head, and the same over the values' magnitudes."""
    batch, _, height, width = x.shape
    rows = x.double().cpu().numpy().reshape(batch, -1, height * width)
    result = np.empty((2, batch, heads * head_dim, height * width))
    first_query, first_key = heads * head_dim, heads * (head_dim + key_dim)
    for image in range(batch):
        for head in range(heads):
            at = slice(head * head_dim, (head + 1) * head_dim)
            q = rows[image, first_query + head * key_dim :][:key_dim]
            k = rows[image, first_key + head * key_dim :][:key_dim]
            scores = np.einsum("cq,ck->qk", q, k) * scale
            weights = np.exp(scores - scores.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            result[0, image, at] = rows[image, at] @ weights.T
            result[1, image, at] = np.abs(rows[image, at]) @ weights.T
    total, magnitude = result.reshape(2, batch, -1, height, width)
    return total, magnitude


def assert_attended(found: Any, x: Any, residual: Any, shape: dict[str, Any]) -> None:
    """Weights are rounded once, the result is rounded once, and sums are float32."""
    rounding = ROUNDING[x.dtype]
    wanted, magnitude = attended(x, **shape)
    if residual is not None:
        wanted = wanted + residual.double().cpu().numpy()
    error = np.abs(found.double().cpu().numpy() - wanted)
    assert np.isfinite(error).all()
    last = 0 if found.dtype == torch.float32 else rounding
    assert (error <= 1.01 * (rounding * magnitude + last * np.abs(wanted)) + 1e-5).all()


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize(
    ("heads", "key_dim", "head_dim", "size"),
    [
        (2, 32, 64, (1, 1)),
        (2, 32, 64, (1, 7)),
        (2, 32, 64, (7, 1)),
        (4, 32, 64, (8, 8)),
        (2, 32, 64, (15, 20)),
        (3, 32, 64, (20, 20)),
        (1, 16, 16, (5, 13)),
        (2, 64, 32, (9, 15)),
        (1, 64, 128, (3, 43)),
        (1, 128, 128, (6, 11)),
    ],
)
def test_attention(
    heads: int, key_dim: int, head_dim: int, size: tuple[int, int], dtype: Any
) -> None:
    from brimful.runtimes.cuda.network.attention import attention

    x = random_map(2, heads * (head_dim + 2 * key_dim), *size, dtype=dtype)
    out = random_map(2, heads * head_dim, *size, seed=1, dtype=dtype)
    shape = {"heads": heads, "key_dim": key_dim, "head_dim": head_dim, "scale": key_dim**-0.5}
    attention(x, out, **shape).run()
    assert_attended(out, x, None, shape)


def test_slices_of_channels_a_residual_and_float_output() -> None:
    from brimful.runtimes.cuda.network.attention import attention

    shape = {"heads": 2, "key_dim": 16, "head_dim": 32, "scale": 0.4}
    wide_in, wide_out = random_map(2, 160, 9, 8), random_map(2, 96, 9, 8, seed=1)
    shortcut = random_map(2, 80, 9, 8, seed=2)
    x, residual, before = wide_in[:, 16:144], shortcut[:, 16:], wide_out.clone()
    attention(x, wide_out[:, 16:80], residual=residual, **shape).run()
    assert_attended(wide_out[:, 16:80], x, residual, shape)
    assert torch.equal(wide_out[:, :16], before[:, :16])
    assert torch.equal(wide_out[:, 80:], before[:, 80:])
    attention(x, wide_out[:, 16:80], residual=wide_out[:, 16:80], **shape).run()  # in place
    single = torch.empty_like(residual, dtype=torch.float32)
    attention(x, single, **shape).run()
    assert_attended(single, x, None, shape)


def test_scores_beyond_the_range_of_exp() -> None:
    """The largest score comes last, and without it the exponential would be infinite."""
    from brimful.runtimes.cuda.network.attention import attention

    shape = {"heads": 1, "key_dim": 16, "head_dim": 16, "scale": 0.25}
    x = random_map(1, 48, 10, 20)
    rising = torch.linspace(0, 12, 200, device=DEVICE).reshape(10, 20)
    x[:, 16:32] = 3 + 0.1 * x[:, 16:32]
    x[:, 32:] = (rising + 0.1 * x[:, 32:]).half()
    out = torch.empty_like(x[:, :16])
    assert attended(x, **shape)[0].std() > 0.1
    attention(x, out, **shape).run()
    assert_attended(out, x, None, shape)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    from brimful.runtimes.cuda.network.attention import attention

    shape = {"heads": 2, "key_dim": 32, "head_dim": 64, "scale": 32**-0.5}
    x = random_map(5, 256, 9, 12)

    def run(images: Any) -> Any:
        out = random_map(len(images), 128, 9, 12)
        attention(images, out, **shape).run()
        return out

    together, turned = run(x), run(x.flip(0).contiguous(memory_format=torch.channels_last))
    for i in range(len(x)):
        assert torch.equal(run(x[i : i + 1])[0], together[i])
        assert torch.equal(turned[len(x) - 1 - i], together[i])


def test_what_the_kernel_cannot_read_is_refused() -> None:
    from brimful.runtimes.cuda.network.attention import attention

    shape = {"heads": 1, "key_dim": 16, "head_dim": 16, "scale": 1.0}
    out = random_map(1, 16, 4, 4)
    with pytest.raises(ValueError, match="channels"):
        attention(random_map(1, 64, 4, 4), out, **shape | {"key_dim": 24})
    with pytest.raises(ValueError, match=r"x is expected to be \(1, 48, 4, 4\)"):
        attention(random_map(1, 64, 4, 4), out, **shape)
    with pytest.raises(ValueError, match="without gaps"):
        attention(random_map(1, 48, 4, 8)[..., :4], out, **shape)
    with pytest.raises(ValueError, match="channels-last"):
        attention(random_map(1, 48, 4, 4).contiguous(), out, **shape)


def not_launching() -> Any:
    """Return a launcher that leaves undone what it is asked to launch."""
    from brimful.cuda.launcher import Launcher

    class Idle(Launcher):
        def __call__(self, launch: Any) -> None:
            pass

    return Idle()


ASSETS = "bus.jpg", "zidane.jpg"
SMALL, LARGE = (224, 224), (320, 256)
"""Canvases: 49 cells of stride 32 fit into a block of queries, 80 take two."""


@functools.cache
def loaded(path: Path) -> Any:
    spec = SpecOverrides(task=None, names=None)
    return load_checkpoint(path, nms=None, overrides=spec, trust=False).network.eval()


@functools.cache
def read_by_layers(path: Path, size: tuple[int, int] = SMALL) -> dict[int, Any]:
    """Return what each layer of a checkpoint's network reads of two photographs, in float32."""
    network = copy.deepcopy(loaded(path))
    read: dict[int, Any] = {}
    for i, layer in enumerate(network.model):
        layer.register_forward_pre_hook(
            lambda module, inputs, i=i: read.__setitem__(i, inputs[0])  # one layer, one call
        )
    photos = [cv2.resize(cv2.imread(str(asset(name))), size) for name in ASSETS]
    images = np.stack(photos)[..., ::-1].transpose(0, 3, 1, 2) / np.float32(255)
    with torch.inference_mode():
        network(torch.from_numpy(np.ascontiguousarray(images, np.float32)))
    return read


def assert_no_further(ours: Any, theirs: Any, wanted: Any) -> None:
    """PyTorch rounds after each of its kernels, ours more rarely: float64 is no further away.

    The one largest error is chance, and changes with the number of PyTorch's threads: it must only
    be as large as errors of rounding are.
    """
    mine, reference = ((found.double() - wanted).abs() for found in (ours, theirs))
    assert mine.mean() <= 0.95 * reference.mean()
    assert mine.square().mean() <= reference.square().mean()
    assert mine.max() <= 3 * reference.max()


BLOCKS = {10: "FusedAttentionSplit", 22: "FusedSplit"}
LAYERS = [  # each takes seconds in the interpreter
    *(("yolo26n.yaml", index, dtype, SMALL) for index in BLOCKS for dtype in ROUNDING),
    ("yolo11n.yaml", 10, torch.float16, SMALL),
    ("yolo26n-coco.pt", 10, torch.float16, LARGE),
    ("yolo26n-coco.pt", 22, torch.float16, SMALL),
]


@pytest.mark.parametrize(("name", "index", "dtype", "size"), LAYERS, ids=str)
def test_blocks_agree_with_the_network(
    name: str, index: int, dtype: Any, size: tuple[int, int]
) -> None:
    from brimful.cuda.launcher import Launcher
    from brimful.runtimes.cuda.network.fuse import fuse
    from brimful.runtimes.cuda.network.network import _lower

    path = shared("models", name) if name.endswith(".pt") else saved(name)
    lowered = copy.deepcopy(loaded(path))
    _lower(lowered, dtype)
    x = read_by_layers(path, size)[index].to(DEVICE, dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    plain = lowered.model[index].to(DEVICE)
    exact = copy.deepcopy(plain).double()
    with torch.inference_mode():
        wanted, theirs = exact(x.double()), plain(x)
    fused = fuse(copy.deepcopy(lowered), Launcher(), dtype).model[index].to(DEVICE)
    kinds = [type(module).__name__ for module in fused.modules()]
    assert type(fused).__name__ == BLOCKS[index]
    assert kinds.count("FusedAttention") == 1
    with torch.inference_mode(), Dispatched() as seen:
        mine = fused(x)
    assert seen.computed == []
    assert mine.dtype == dtype
    assert_no_further(mine, theirs, wanted)
    with torch.inference_mode():
        for image in range(len(x)):
            assert torch.equal(fused(x[image : image + 1])[0], mine[image])


@pytest.mark.parametrize("name", ["yolo26n.yaml", "yolo11n.yaml", "yolo26n-seg.yaml"])
def test_below_the_head_only_our_kernels_are_launched(name: str) -> None:
    from brimful.runtimes.cuda.network.fuse import fuse
    from brimful.runtimes.cuda.network.network import _lower

    network = copy.deepcopy(loaded(saved(name)))
    _lower(network, torch.float16)
    fuse(network, not_launching(), torch.float16)

    def leave(module: Any, inputs: Any) -> None:
        raise StopIteration

    network.model[-1].register_forward_pre_hook(leave)
    x = random_map(1, 3, 64, 96).cpu()
    with torch.inference_mode(), Dispatched() as seen, pytest.raises(StopIteration):
        network(x)
    assert seen.computed == []


def test_an_inner_block_that_is_not_known_is_copied_into_place() -> None:
    """Parts of a chain that do not write where they are told still end up there."""
    from brimful.cuda.launcher import Launcher
    from brimful.runtimes.cuda.network.fuse import fuse
    from brimful.runtimes.cuda.network.network import _lower

    class Negate(nn.Module):
        def forward(self, x: Any) -> Any:
            return -x

    network = copy.deepcopy(loaded(saved("yolo26n.yaml")))
    network.model[22].m[0].append(Negate())
    _lower(network, torch.float16)
    plain = copy.deepcopy(network.model[22]).to(DEVICE)
    x = read_by_layers(saved("yolo26n.yaml"))[22]
    x = x.to(DEVICE, torch.float16).contiguous(memory_format=torch.channels_last)
    fused = fuse(network, Launcher(), torch.float16).model[22].to(DEVICE)
    assert type(fused).__name__ == "FusedSplit"
    with torch.inference_mode():
        assert_no_further(fused(x), plain(x), copy.deepcopy(plain).double()(x.double()))


class Network(nn.Module):
    """The parts of a network that `fuse` reads."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)
        self.save: list[int] = []


def without_normalisation(module: Any) -> Any:
    """Fold batch normalisation, as loading a checkpoint does."""
    from ultralytics.utils.torch_utils import fuse_conv_and_bn

    for part in module.modules():
        if hasattr(part, "bn"):
            part.conv = fuse_conv_and_bn(part.conv, part.bn)
            del part.bn
            part.forward = part.forward_fuse
    return module.eval()


@pytest.mark.parametrize("width", [96, 128])
def test_heads_of_other_widths_stay_and_are_right(width: int) -> None:
    """48 channels a head are no power of two."""
    from ultralytics.nn.modules.block import C2PSA

    from brimful.cuda.launcher import Launcher
    from brimful.runtimes.cuda.network.fuse import fuse

    torch.manual_seed(0)
    block = without_normalisation(C2PSA(width, width, 2)).half().to(DEVICE)
    x = random_map(2, width, 5, 6)
    with torch.inference_mode():
        wanted = block(x)
        network = fuse(Network(block, nn.Identity()), Launcher(), torch.float16)
        fused = network.model[0].to(DEVICE)
        found = fused(x)
    assert type(fused).__name__ == ("C2PSA" if width == 96 else "FusedAttentionSplit")
    assert any(type(m).__name__ == "FusedConv" for m in fused.modules())
    torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.003)


@pytest.mark.parametrize("shortcut", [False, True])
def test_a_block_without_shortcuts(shortcut: bool) -> None:
    from ultralytics.nn.modules.block import PSABlock

    from brimful.cuda.launcher import Launcher
    from brimful.runtimes.cuda.network.fuse import fuse

    torch.manual_seed(0)
    block = without_normalisation(PSABlock(64, num_heads=2, shortcut=shortcut)).half().to(DEVICE)
    x = random_map(2, 64, 5, 6)
    with torch.inference_mode():
        wanted = block(x)
        fused = fuse(Network(block, nn.Identity()), Launcher(), torch.float16).model[0]
        assert type(fused).__name__ == "FusedAttentionBlock"
        found = fused.to(DEVICE)(x)
        fused(x, x)  # in place
    torch.testing.assert_close(found, wanted, rtol=0.01, atol=0.003)
    assert torch.equal(x, found)


@pytest.mark.parametrize("missing", ["scale", "pe", "proj", "ffn", "add", "m", "c", "cv2"])
def test_namesakes_without_a_part_stay(missing: str) -> None:
    from ultralytics.nn.modules.block import C2PSA

    from brimful.cuda.launcher import Launcher
    from brimful.runtimes.cuda.network.fuse import fuse

    block = without_normalisation(C2PSA(128, 128)).half()
    owner = next(module for module in reversed([*block.modules()]) if hasattr(module, missing))
    delattr(owner, missing)
    fuse(Network(block, nn.Identity()), Launcher(), torch.float16)
    assert owner in [*block.modules()]
    assert any(type(module).__name__ == "FusedConv" for module in block.modules())
