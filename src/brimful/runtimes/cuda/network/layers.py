"""FusedLayers: a network all of whose parts are fused, without the library that it came from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from brimful.runtimes.cuda.network import blocks
from brimful.runtimes.cuda.network.head import NmsFreeHead

_PLAIN = (nn.Sequential, nn.ModuleList, nn.Identity)
_OURS = (
    blocks.FusedConv,
    blocks.FusedBottleneck,
    blocks.FusedSplit,
    blocks.FusedCross,
    blocks.FusedPooling,
    blocks.FusedAttention,
    blocks.FusedAttentionBlock,
    blocks.FusedAttentionSplit,
    blocks.Enlarge,
    blocks.FusedConcat,
    NmsFreeHead,
)


class FusedLayers(nn.Module):
    """Layers in order, each of which reads the outputs of earlier ones.

    On the device such a network does nothing but launch kernels of this package: what one forward
    launches can be recorded, and the network can be kept in a file of its own.
    """

    def __init__(self, layers: Iterable[nn.Module], kept: Iterable[int]) -> None:
        """Take the layers of a network.

        Args:
            layers: Each has `f`, the number or numbers of the layers that it reads; -1 is the one
                before it.
            kept: Numbers of the layers that others than the next one read.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._kept = frozenset(kept)

    @staticmethod
    def takes(network: Any) -> bool:
        """Whether every part of a network that was fused is one of ours."""
        parts = [part for layer in network.model for part in layer.modules()]
        ours = all(type(part) in (*_PLAIN, *_OURS) for part in parts)
        return ours and isinstance(network.model[-1], NmsFreeHead)

    def forward(self, images: Tensor) -> Any:
        """Return what the last layer returns."""
        outputs: list[Any] = []
        x: Any = images
        for number, layer in enumerate(self.layers):
            source: Any = layer.f
            if isinstance(source, list | tuple):
                x = [x if i == -1 else outputs[i] for i in source]
            elif source != -1:
                x = outputs[source]
            x = layer(x)
            outputs.append(x if number in self._kept else None)
        return x
