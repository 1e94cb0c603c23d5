"""The fused kernels against PyTorch's operators in float64, on a GPU or in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from interpreter import sum_products_in_order


@pytest.fixture(autouse=True)
def arithmetic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The interpreter sums in a fixed order, and warns nowhere: a GPU answers with infinity."""
    sum_products_in_order(monkeypatch)
    with np.errstate(all="ignore"):
        yield


TORCH_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ODD = (7, 9)


def half(*shape: int, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return values.to(TORCH_DEVICE, torch.float16).contiguous(memory_format=torch.channels_last)


def packed(weight: Any) -> Any:
    """Return a weight (out, in, kernel, kernel) as the kernels read it."""
    if weight.shape[1] == 1:
        return weight[:, 0].permute(1, 2, 0).reshape(-1, len(weight)).contiguous()
    return weight.permute(2, 3, 1, 0).reshape(-1, len(weight)).contiguous()


def expected(x: Any, weight: Any, bias: Any, stride: int, silu: bool, groups: int = 1) -> Any:
    padding = weight.shape[-1] // 2
    y = functional.conv2d(x.double(), weight.double(), bias.double(), stride, padding, 1, groups)
    return functional.silu(y) if silu else y


def assert_close(found: Any, wanted: Any) -> None:
    """One rounding to half precision of a float32 sum, and nothing more."""
    scale = wanted.abs().max()
    assert torch.isfinite(found).all()
    assert ((found.double() - wanted).abs() <= wanted.abs() * 2**-10 + scale * 1e-5).all()


@pytest.mark.parametrize(
    ("channels_in", "channels_out", "kernel", "stride"),
    [
        (3, 16, 3, 2),  # the stem: flat, and no multiple of 8 channels
        (3, 16, 6, 2),  # YOLOv5's
        (8, 16, 3, 1),
        (16, 8, 3, 1),
        (16, 4, 1, 1),
        (48, 64, 1, 1),
        (80, 80, 1, 1),
        (32, 32, 3, 2),
        (96, 130, 1, 1),  # more than one tile of columns, the last one ragged
        (64, 128, 3, 1),
    ],
)
def test_convolution(channels_in: int, channels_out: int, kernel: int, stride: int) -> None:
    from brimful.runtimes.cuda.network.conv import conv

    x = half(2, channels_in, *ODD)
    weight = half(channels_out, channels_in, kernel, kernel, seed=1) * 0.1
    bias = torch.linspace(-1, 1, channels_out, device=TORCH_DEVICE)
    wanted = expected(x, weight, bias, stride, True)
    out = torch.full_like(wanted, 7, dtype=torch.float16, memory_format=torch.channels_last)
    shape = {"kernel": kernel, "stride": stride, "padding": kernel // 2}
    conv(x, packed(weight), bias, out, silu=True, **shape).run()
    assert_close(out, wanted)


def test_slices_of_channels_residual_and_float_output() -> None:
    from brimful.runtimes.cuda.network.conv import conv

    wide_in, wide_out, shortcut = half(2, 48, *ODD), half(2, 64, *ODD, seed=2), half(2, 40, *ODD)
    x, residual = wide_in[:, 16:32], shortcut[:, 8:32]
    weight = half(24, 16, 3, 3, seed=1) * 0.1
    bias = torch.zeros(24, device=TORCH_DEVICE)
    before = wide_out.clone()
    shape = {"kernel": 3, "stride": 1, "padding": 1}
    conv(x, packed(weight), bias, wide_out[:, 32:56], silu=False, residual=residual, **shape).run()
    wanted = expected(x, weight, bias, 1, False)
    assert_close(wide_out[:, 32:56], wanted + residual.double())
    assert torch.equal(wide_out[:, :32], before[:, :32])
    assert torch.equal(wide_out[:, 56:], before[:, 56:])
    single = torch.empty_like(wanted, dtype=torch.float32, memory_format=torch.channels_last)
    conv(x, packed(weight), bias, single, silu=False, **shape).run()
    assert (single.double() - wanted).abs().max() < 1e-4  # not rounded to half precision


@pytest.mark.gpu  # Triton's interpreter multiplies the bit patterns of bfloat16
def test_bfloat16() -> None:
    from brimful.runtimes.cuda.network.conv import conv

    x, weight = half(1, 32, *ODD).bfloat16(), (half(32, 32, 1, 1, seed=1) * 0.1).bfloat16()
    bias = torch.zeros(32, device=TORCH_DEVICE)
    wanted = expected(x, weight, bias, 1, True)
    out = torch.empty_like(x)
    conv(x, packed(weight), bias, out, kernel=1, stride=1, padding=0, silu=True).run()
    assert ((out.double() - wanted).abs() <= wanted.abs() * 2**-7 + 1e-4).all()


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(80, 3, 1), (64, 5, 2), (24, 7, 1)])
def test_depthwise_convolution(channels: int, kernel: int, stride: int) -> None:
    from brimful.runtimes.cuda.network.conv import depthwise

    x = half(2, channels, *ODD)
    weight = half(channels, 1, kernel, kernel, seed=1)
    bias = torch.linspace(-1, 1, channels, device=TORCH_DEVICE)
    wanted = expected(x, weight, bias, stride, True, groups=channels)
    out = torch.empty_like(wanted, dtype=torch.float16, memory_format=torch.channels_last)
    shape = {"kernel": kernel, "stride": stride, "padding": kernel // 2}
    depthwise(x, packed(weight), bias, out, silu=True, **shape).run()
    assert_close(out, wanted)


def test_a_pixel_does_not_depend_on_the_batch() -> None:
    from brimful.runtimes.cuda.network.conv import conv

    x = half(5, 64, *ODD)
    weight, bias = packed(half(96, 64, 3, 3, seed=1)), torch.ones(96, device=TORCH_DEVICE)

    def run(images: Any) -> Any:
        out = half(len(images), 96, *ODD).float()  # half precision would hide the sums' last bits
        conv(images, weight, bias, out, kernel=3, stride=1, padding=1, silu=False).run()
        return out

    together = run(x)
    for i in range(len(x)):
        assert torch.equal(run(x[i : i + 1])[0], together[i])


@pytest.mark.parametrize("scale", [1, 2])
def test_spread(scale: int) -> None:
    from brimful.runtimes.cuda.network.layout import spread

    x, out = half(2, 72, *ODD), half(2, 80, scale * ODD[0], scale * ODD[1], seed=1)
    before = out.clone()
    spread(x[:, 8:], out[:, 16:], scale=scale).run()
    wanted = x[:, 8:].repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    assert torch.equal(out[:, 16:], wanted)
    assert torch.equal(out[:, :16], before[:, :16])


def test_max_pool() -> None:
    from brimful.runtimes.cuda.network.layout import max_pool

    x, out = half(2, 40, *ODD), half(2, 40, *ODD, seed=1)
    x[0, 3, 2, 2] = float("nan")
    max_pool(x, out, side=5).run()
    wanted = functional.max_pool2d(x.float(), 5, 1, 2).half()
    assert torch.equal(out.nan_to_num(9), wanted.nan_to_num(9))
