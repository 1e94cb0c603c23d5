"""Blocks of a network as modules that launch fused kernels.

What one block writes, the next reads where it lies: parts of a block write slices of channels of
the tensor that its last convolution reads, so that neither split nor concatenation is a kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brimful.cuda.launcher import Launcher
from brimful.runtimes.cuda.network.attention import attention
from brimful.runtimes.cuda.network.conv import conv, depthwise
from brimful.runtimes.cuda.network.layout import max_pool, spread


class FusedConv(nn.Module):
    """Convolution, bias and SiLU in one kernel."""

    weight: Tensor
    bias: Tensor

    def __init__(self, source: nn.Conv2d, launcher: Launcher, *, silu: bool, dtype: Any) -> None:
        """Pack the weights of a convolution.

        Args:
            source: With a bias or without; its weights give the dtype of the input.
            launcher: Runs the kernel.
            silu: Whether SiLU follows.
            dtype: Of the output.
        """
        super().__init__()
        weight = source.weight.detach()
        out, _, kernel, _ = weight.shape
        self.is_depthwise = source.groups > 1
        if self.is_depthwise:
            packed = weight[:, 0].permute(1, 2, 0).reshape(-1, out)
        else:
            packed = weight.permute(2, 3, 1, 0).reshape(-1, out)
        bias = torch.zeros(out) if source.bias is None else source.bias.detach()
        self.register_buffer("weight", packed.contiguous())
        self.register_buffer("bias", bias.float())
        self.channels_out = out
        self.kernel = kernel
        self.stride = int(source.stride[0])
        self.padding = int(source.padding[0])
        self.silu = silu
        self.dtype = dtype
        self._launcher = launcher

    def reorder(self, channels: list[int]) -> None:
        """Let the output's channels be these of what they were, in this order."""
        order = torch.tensor(channels, device=self.weight.device)
        self.weight = self.weight[:, order].contiguous()
        self.bias = self.bias[order]

    def forward(
        self, x: Tensor, out: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Compute into `out`, which may be a slice of channels, or into a new tensor."""
        if x.stride(1) != 1:
            x = x.contiguous(memory_format=torch.channels_last)
        if out is None:
            height, width = (
                (side + 2 * self.padding - self.kernel) // self.stride + 1 for side in x.shape[2:]
            )
            out = _empty(x, self.channels_out, (height, width), self.dtype)
        shape = {"kernel": self.kernel, "stride": self.stride, "padding": self.padding}
        if self.is_depthwise:
            launch = depthwise(x, self.weight, self.bias, out, silu=self.silu, **shape)
        else:
            launch = conv(
                x, self.weight, self.bias, out, silu=self.silu, residual=residual, **shape
            )
        self._launcher(launch)
        return out


class FusedBottleneck(nn.Module):
    """Two convolutions and the shortcut around them, which the second one adds."""

    def __init__(self, first: FusedConv, second: FusedConv, *, shortcut: bool) -> None:
        """Take the convolutions of a bottleneck."""
        super().__init__()
        self.first, self.second, self.shortcut = first, second, shortcut

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute into `out` or into a new tensor."""
        result: Tensor = self.second(self.first(x), out, x if self.shortcut else None)
        return result


class FusedSplit(nn.Module):
    """C2f and its kin: every part writes where the last convolution reads."""

    def __init__(self, first: FusedConv, parts: list[nn.Module], last: FusedConv) -> None:
        """Take the convolutions and parts of a block."""
        super().__init__()
        self.first, self.parts, self.last = first, nn.ModuleList(parts), last

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute into `out` or into a new tensor."""
        width = self.first.channels_out // 2
        size = (x.shape[2], x.shape[3])
        joined = _empty(x, width * (2 + len(self.parts)), size, self.first.dtype)
        self.first(x, joined[:, : 2 * width])
        for i, part in enumerate(self.parts, start=1):
            source = joined[:, i * width : (i + 1) * width]
            _into(part, source, joined[:, (i + 1) * width : (i + 2) * width])
        result: Tensor = self.last(joined, out)
        return result


class FusedCross(nn.Module):
    """C3 and its kin: two branches that the last convolution reads side by side."""

    def __init__(
        self, first: FusedConv, beside: FusedConv, parts: list[nn.Module], last: FusedConv
    ) -> None:
        """Take the convolutions and parts of a block."""
        super().__init__()
        self.first, self.beside, self.last = first, beside, last
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute into `out` or into a new tensor."""
        width = self.first.channels_out
        size = (x.shape[2], x.shape[3])
        joined = _empty(x, width + self.beside.channels_out, size, self.first.dtype)
        self.beside(x, joined[:, width:])
        chain = [self.first, *self.parts]
        for part in chain[:-1]:
            x = part(x)
        _into(chain[-1], x, joined[:, :width])
        result: Tensor = self.last(joined, out)
        return result


class FusedPooling(nn.Module):
    """SPPF: repeated max pooling, every step beside the ones before it."""

    def __init__(
        self, first: FusedConv, last: FusedConv, launcher: Launcher, shape: tuple[int, int, bool]
    ) -> None:
        """Take the convolutions of a block.

        Args:
            first: Before the pooling.
            last: Reads every step.
            launcher: Runs the kernel.
            shape: Side of the pooled square, steps, and whether there is a shortcut around all.
        """
        super().__init__()
        self.first, self.last = first, last
        self.side, self.steps, self.shortcut = shape
        self._launcher = launcher

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute into `out` or into a new tensor."""
        width = self.first.channels_out
        size = (x.shape[2], x.shape[3])
        joined = _empty(x, width * (1 + self.steps), size, self.first.dtype)
        self.first(x, joined[:, :width])
        for i in range(self.steps):
            source = joined[:, i * width : (i + 1) * width]
            target = joined[:, (i + 1) * width : (i + 2) * width]
            self._launcher(max_pool(source, target, side=self.side))
        result: Tensor = self.last(joined, out, x if self.shortcut else None)
        return result


class FusedAttention(nn.Module):
    """Self-attention over the cells of a map, plus a convolution of the values (their position)."""

    def __init__(
        self,
        qkv: FusedConv,
        encoding: FusedConv,
        projection: FusedConv,
        launcher: Launcher,
        shape: tuple[int, int, int, float],
    ) -> None:
        """Take the convolutions of an attention.

        Args:
            qkv: Gives for each head in turn its queries, keys and values; its channels are
                reordered, so that the values of all heads come first and are a map of their own.
            encoding: Depthwise, over the map of values.
            projection: Reads the sum of both.
            launcher: Runs the kernel.
            shape: Heads, channels of a head's keys, of its values, and the scale of the scores.
        """
        super().__init__()
        self.qkv, self.encoding, self.projection = qkv, encoding, projection
        self.heads, self.key_dim, self.head_dim, self.scale = shape
        self._launcher = launcher
        qkv.reorder(_values_first(self.heads, self.key_dim, self.head_dim))

    def forward(
        self, x: Tensor, out: Tensor | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Compute into `out` or into a new tensor; `residual` is added to the result."""
        qkv = self.qkv(x)
        attended = self.encoding(qkv[:, : self.heads * self.head_dim])
        dims = {"heads": self.heads, "key_dim": self.key_dim, "head_dim": self.head_dim}
        self._launcher(attention(qkv, attended, scale=self.scale, residual=attended, **dims))
        result: Tensor = self.projection(attended, out, residual)
        return result


class FusedAttentionBlock(nn.Module):
    """PSABlock: attention, then two convolutions, each with a shortcut around it."""

    def __init__(
        self, attention: FusedAttention, first: FusedConv, second: FusedConv, *, shortcut: bool
    ) -> None:
        """Take the attention and the convolutions of a block."""
        super().__init__()
        self.attention, self.first, self.second = attention, first, second
        self.shortcut = shortcut

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute into `out`, which may be `x`, or into a new tensor."""
        middle = self.attention(x, residual=x if self.shortcut else None)
        result: Tensor = self.second(self.first(middle), out, middle if self.shortcut else None)
        return result


class FusedAttentionSplit(nn.Module):
    """C2PSA: the second half of the first convolution's channels goes through attention blocks."""

    def __init__(self, first: FusedConv, parts: list[FusedAttentionBlock], last: FusedConv) -> None:
        """Take the convolutions and parts of a block."""
        super().__init__()
        self.first, self.parts, self.last = first, nn.ModuleList(parts), last

    def forward(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Compute into `out` or into a new tensor."""
        joined = self.first(x)
        attended = joined[:, self.first.channels_out // 2 :]
        for part in self.parts:
            part(attended, attended)
        result: Tensor = self.last(joined, out)
        return result


class Enlarged:
    """A feature map that stands for one of twice its size, until somebody copies it."""

    def __init__(self, x: Tensor) -> None:
        """Keep the map."""
        self.x = x


class Enlarge(nn.Module):
    """Nearest upsampling by 2, left to the concatenation that follows."""

    def forward(self, x: Tensor) -> Enlarged:
        """Return a promise."""
        return Enlarged(x)


class FusedConcat(nn.Module):
    """Concatenation of channels; what is to be enlarged is enlarged on the way."""

    f: Any

    def __init__(self, launcher: Launcher) -> None:
        """Keep what runs the kernel."""
        super().__init__()
        self._launcher = launcher

    def forward(self, parts: list[Tensor | Enlarged]) -> Tensor:
        """Return the parts side by side."""
        maps = [part.x if isinstance(part, Enlarged) else part for part in parts]
        scales = [2 if isinstance(part, Enlarged) else 1 for part in parts]
        size = (maps[0].shape[2] * scales[0], maps[0].shape[3] * scales[0])
        joined = _empty(maps[0], sum(m.shape[1] for m in maps), size, maps[0].dtype)
        start = 0
        for part, scale in zip(maps, scales, strict=True):
            if part.stride(1) != 1:
                part = part.contiguous(memory_format=torch.channels_last)
            stop = start + part.shape[1]
            self._launcher(spread(part, joined[:, start:stop], scale=scale))
            start = stop
        return joined


_WRITING = (
    FusedConv,
    FusedBottleneck,
    FusedSplit,
    FusedCross,
    FusedPooling,
    FusedAttentionBlock,
    FusedAttentionSplit,
)


def _into(part: nn.Module, x: Tensor, out: Tensor) -> None:
    """Let a module write its result into `out`, or copy it there."""
    if type(part) is nn.Sequential and len(part) > 0:
        *before, last = part
        for module in before:
            x = module(x)
        _into(last, x, out)
    elif isinstance(part, _WRITING):
        part(x, out)
    else:
        out.copy_(part(x))


def _values_first(heads: int, key_dim: int, head_dim: int) -> list[int]:
    """Return the channels of heads of queries, keys, values: all values, all queries, all keys."""
    starts = [head * (2 * key_dim + head_dim) for head in range(heads)]
    parts = ((2 * key_dim, head_dim), (0, key_dim), (key_dim, key_dim))
    return [
        start + offset + channel
        for offset, width in parts
        for start in starts
        for channel in range(width)
    ]


def _empty(x: Tensor, channels: int, size: tuple[int, int], dtype: Any) -> Tensor:
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
