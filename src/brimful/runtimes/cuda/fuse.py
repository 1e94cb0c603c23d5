"""A checkpoint's network with its convolutions replaced by fused kernels.

What is replaced is found by structure: a module named as Ultralytics names it, with the parts it
has there. What is not recognised stays as PyTorch runs it, so an unknown block costs speed, not
results.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from brimful.announce import announced
from brimful.runtimes.cuda.conv import Launch, conv, depthwise
from brimful.runtimes.cuda.head import NmsFreeHead
from brimful.runtimes.cuda.layout import max_pool, spread
from brimful.runtimes.threads import available_cpus

_CONVS = ("Conv", "DWConv")
_SPLITS = ("C2f", "C3k2")
_CROSSES = ("C3", "C3k")


class Launcher:
    """Runs launches, or collects them so that their kernels can be compiled side by side."""

    def __init__(self) -> None:
        """Start in the mode that runs."""
        self._collected: list[Launch] | None = None

    def __call__(self, launch: Launch) -> None:
        """Run or collect a launch."""
        if self._collected is None:
            launch.run()
        else:
            self._collected.append(launch)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Collect the launches of a forward, whose results are then garbage, and compile them."""
        self._collected = []
        try:
            yield
            collected = self._collected
        finally:
            self._collected = None
        distinct = {
            (id(launch.kernel), tuple(launch.constants.items())): launch for launch in collected
        }
        doing = f"compiling {len(distinct)} kernels for the GPU, once; Triton keeps them"
        workers = ThreadPoolExecutor(available_cpus(), thread_name_prefix="brimful-compile")
        with announced(doing), workers as pool:
            for finished in [pool.submit(launch.compile) for launch in distinct.values()]:
                finished.result()


class FusedConv(nn.Module):
    """Convolution, bias and SiLU in one kernel."""

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


Fused = FusedConv | FusedBottleneck | FusedSplit | FusedCross | FusedPooling | FusedConcat


def fuse(network: Any, launcher: Launcher, dtype: Any) -> Any:
    """Replace what is recognised in a network, which is changed.

    Args:
        network: A checkpoint's network with batch normalisation folded, weights of its
            convolutions in `dtype`.
        launcher: Runs the kernels.
        dtype: fp16 or bf16, of activations.

    Returns:
        The network.
    """
    head = network.model[-1]
    for module in [m for m in head.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]:
        # Boxes and scores are decoded in float32: the last convolutions give it at no cost.
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d and _fusable(child, dtype):
                fused = FusedConv(child, launcher, silu=False, dtype=torch.float32)
                setattr(module, name, fused)
    _replace(network, launcher, dtype)
    _delay_upsampling(network)
    _replace_head(network, launcher)
    return network


def _replace(parent: nn.Module, launcher: Launcher, dtype: Any) -> None:
    """Replace the children of a module, the innermost first."""
    for name, child in list(parent.named_children()):
        _replace(child, launcher, dtype)
        fused = _fused(child, launcher, dtype)
        if fused is None:
            continue
        _put_in_place(parent, name, fused)


def _put_in_place(parent: Any, name: str, module: nn.Module) -> None:
    """Replace a child, with the attributes that the network's own forward reads."""
    child = getattr(parent, name)
    for attribute in ("i", "f", "type", "np"):
        if hasattr(child, attribute):
            setattr(module, attribute, getattr(child, attribute))
    setattr(parent, name, module)


def _delay_upsampling(network: Any) -> None:
    """Let a concatenation enlarge its first part when nobody else reads that."""
    layer: Any
    following: Any
    layers = network.model
    for i in range(len(layers) - 1):
        layer, following = layers[i], layers[i + 1]
        doubles = isinstance(layer, nn.Upsample) and layer.mode == "nearest"
        if not doubles or layer.scale_factor != 2 or i in network.save:
            continue
        if isinstance(following, FusedConcat) and following.f[0] == -1:
            _put_in_place(layers, str(i), Enlarge())


def _replace_head(network: Any, launcher: Launcher) -> None:
    """Replace an NMS-free detection head whose branches are fused to their ends."""
    head = network.model[-1]
    boxes: Any = getattr(head, "one2one_cv2", None)
    scores: Any = getattr(head, "one2one_cv3", None)
    if type(head).__name__ != "Detect" or boxes is None or not head.end2end:
        return
    if scores is None or head.reg_max != 1 or head.agnostic_nms:
        return
    if all(isinstance(branch[-1], FusedConv) for branch in (*boxes, *scores)):
        strides = [float(stride) for stride in head.stride]
        fused = NmsFreeHead(list(boxes), list(scores), strides, int(head.max_det), launcher)
        _put_in_place(network.model, str(len(network.model) - 1), fused)


def _fused(module: Any, launcher: Launcher, dtype: Any) -> Fused | None:
    """Return the replacement of a module whose children were replaced, or None."""
    name = type(module).__name__
    if name in _CONVS and _is_plain_conv(module, dtype):
        silu = isinstance(module.act, nn.SiLU)
        return FusedConv(module.conv, launcher, silu=silu, dtype=dtype)
    if name == "Bottleneck" and _has_convs(module, "cv1", "cv2"):
        return FusedBottleneck(module.cv1, module.cv2, shortcut=bool(module.add))
    if name in _SPLITS and _has_convs(module, "cv1", "cv2"):
        return FusedSplit(module.cv1, list(module.m), module.cv2)
    if name == "SPPF" and _has_convs(module, "cv1", "cv2") and module.m.stride == 1:
        shape = (int(module.m.kernel_size), getattr(module, "n", 3), getattr(module, "add", False))
        return FusedPooling(module.cv1, module.cv2, launcher, shape)
    if name == "Concat" and module.d == 1:
        return FusedConcat(launcher)
    if name in _CROSSES and _has_convs(module, "cv1", "cv2", "cv3"):
        return FusedCross(module.cv1, module.cv2, list(module.m), module.cv3)
    return None


def _is_plain_conv(module: Any, dtype: Any) -> bool:
    known = isinstance(module.act, nn.SiLU | nn.Identity)
    return known and not hasattr(module, "bn") and _fusable(module.conv, dtype)


def _fusable(source: Any, dtype: Any) -> bool:
    """Whether a convolution is one that the kernels compute."""
    if not isinstance(source, nn.Conv2d) or source.weight.dtype != dtype:
        return False
    square = len({*source.kernel_size}) == len({*source.stride}) == 1
    padded = isinstance(source.padding, tuple) and len({*source.padding}) == 1
    plain = set(source.dilation) == {1} and source.padding_mode == "zeros"
    grouped = source.groups == 1 or source.groups == source.in_channels == source.out_channels
    return square and padded and plain and grouped


def _has_convs(module: Any, *names: str) -> bool:
    convs = [getattr(module, name, None) for name in names]
    return all(isinstance(part, FusedConv) and not part.is_depthwise for part in convs)


def _into(part: nn.Module, x: Tensor, out: Tensor) -> None:
    """Let a module write its result into `out`, or copy it there."""
    if isinstance(part, FusedConv | FusedBottleneck | FusedSplit | FusedCross | FusedPooling):
        part(x, out)
    else:
        out.copy_(part(x))


def _empty(x: Tensor, channels: int, size: tuple[int, int], dtype: Any) -> Tensor:
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)
