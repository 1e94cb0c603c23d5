"""A checkpoint's network with its convolutions and attention replaced by fused kernels.

What is replaced is found by structure: a module named as Ultralytics names it, with the parts it
has there. What is not recognised stays as PyTorch runs it, so an unknown block costs speed, not
results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from brimful.cuda.launcher import Launcher
from brimful.runtimes.cuda.network.attention import DIMS
from brimful.runtimes.cuda.network.blocks import (
    Enlarge,
    FusedAttention,
    FusedAttentionBlock,
    FusedAttentionSplit,
    FusedBottleneck,
    FusedConcat,
    FusedConv,
    FusedCross,
    FusedPooling,
    FusedSplit,
)
from brimful.runtimes.cuda.network.head import NmsFreeHead

_CONVS = ("Conv", "DWConv")
_SPLITS = ("C2f", "C3k2")
_CROSSES = ("C3", "C3k")


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
        if attribute in vars(child):  # every module has a method that is called type
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


def _fused(module: Any, launcher: Launcher, dtype: Any) -> nn.Module | None:
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
    if name == "Attention" and _is_attention(module):
        heads = (module.num_heads, module.key_dim, module.head_dim, float(module.scale))
        return FusedAttention(module.qkv, module.pe, module.proj, launcher, heads)
    if name == "PSABlock" and _is_attention_block(module):
        return FusedAttentionBlock(module.attn, *module.ffn, shortcut=bool(module.add))
    if name == "C2PSA" and _is_attention_split(module):
        return FusedAttentionSplit(module.cv1, list(module.m), module.cv2)
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


def _is_attention(module: Any) -> bool:
    """Whether an attention has the parts and channels that the kernel computes."""
    has_numbers = _has(module, "pe", "num_heads", "key_dim", "head_dim", "scale")
    if not has_numbers or not _has_convs(module, "qkv", "proj"):
        return False
    heads, key_dim, head_dim = module.num_heads, module.key_dim, module.head_dim
    encoding = module.pe
    if not isinstance(encoding, FusedConv) or not encoding.is_depthwise:
        return False
    keeps_size = encoding.stride == 1 and 2 * encoding.padding == encoding.kernel - 1
    return (
        keeps_size
        and (key_dim in DIMS and head_dim in DIMS)
        and module.qkv.channels_out == heads * (2 * key_dim + head_dim)
        and encoding.channels_out == heads * head_dim
    )


def _is_attention_block(module: Any) -> bool:
    if not _has(module, "attn", "ffn", "add") or not isinstance(module.attn, FusedAttention):
        return False
    ffn = module.ffn
    return type(ffn) is nn.Sequential and len(ffn) == 2 and _has_convs(ffn, "0", "1")


def _is_attention_split(module: Any) -> bool:
    if not _has(module, "m", "c") or not _has_convs(module, "cv1", "cv2"):
        return False
    chain = type(module.m) is nn.Sequential and module.cv1.channels_out == 2 * module.c
    return chain and all(isinstance(part, FusedAttentionBlock) for part in module.m)


def _has(module: Any, *names: str) -> bool:
    return all(hasattr(module, name) for name in names)


def _has_convs(module: Any, *names: str) -> bool:
    convs = [getattr(module, name, None) for name in names]
    return all(isinstance(part, FusedConv) and not part.is_depthwise for part in convs)
