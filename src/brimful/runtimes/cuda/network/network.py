"""CudaNetwork: a checkpoint's network on a GPU, lowered to its precision and fused."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from brimful.cuda.launcher import Launcher
from brimful.cuda.program import Program
from brimful.models.model import Model
from brimful.runtimes.cuda.network.fuse import fuse
from brimful.runtimes.cuda.network.kept import Opened, kept_network
from brimful.runtimes.cuda.network.layers import FusedLayers
from brimful.runtimes.runtime import Precision
from brimful.spec import ModelSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class CudaNetwork:
    """Runs images through a network; fp16 and bf16 with fused kernels, fp32 with PyTorch's.

    Whatever the precision, boxes are decoded in float32: in half precision a coordinate beyond 512
    is only known to half a pixel.
    """

    capturable = True

    def __init__(
        self, model: Model, precision: Precision, device: Any, *, fused: bool = True
    ) -> None:
        """Load a checkpoint.

        Args:
            model: A `.pt` file.
            precision: Of the weights and activations.
            device: CUDA device.
            fused: Whether to replace convolutions by fused kernels; False is for comparison.

        Raises:
            ModelError: The file cannot be read.
        """
        self.dtype = DTYPES[precision]
        self.fused = fused and precision != "fp32"
        if self.fused:
            opened = kept_network(model, precision, lambda: _open_fused(model, self.dtype))
        else:
            opened = _open(model, self.dtype)
            if precision != "fp32":
                _decode_in_float(opened[1].model[-1])
        self.spec: ModelSpec = opened[0]
        network = opened[1]
        self.recordable = isinstance(network, FusedLayers)
        self._launcher = _launcher_of(network) if self.fused else None
        layers = network.layers if self.recordable else network.model
        self.head: Any = layers[-1]
        # Anchors are made on the CPU, which a capture forbids: they are made once per shape in a
        # warm-up, and each graph keeps its own.
        if hasattr(self.head, "dynamic"):
            self.head.dynamic = False
        # Laid out on the CPU: the device then only gets copies, for which it needs no kernel.
        self._network: Any = network.to(memory_format=torch.channels_last).to(device)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Run images (batch, channels, height, width), 0 to 1, channels-last, in `dtype`.

        Returns:
            float32 outputs, as `ModelSpec.head` lays them out.
        """
        raw = self._network(images)
        outputs = raw if isinstance(raw, tuple | list) else (raw,)
        return [output.float() for output in outputs]

    def on(self, stream: Any) -> CudaNetwork:
        """Return the network: its kernels run on whatever stream is the current one."""
        return self

    def reserve(self, values: int) -> None:
        """Do nothing: the images are read where they are."""

    def compile(self, images: Tensor) -> None:
        """Compile the kernels that images of this shape need, side by side."""
        if self._launcher is not None:
            self._launcher.compile(lambda: self(images))

    def record(self, images: Tensor, pool: Any) -> tuple[Program, list[Tensor]] | None:
        """Return what a forward launches, and its outputs, where every part of it is ours."""
        if not self.recordable or self._launcher is None:
            return None
        # Memory of the pool is every graph's: what stays must lie elsewhere.
        self.head.prepare((images.shape[2], images.shape[3]), images.device)
        with torch.cuda.use_mem_pool(pool, images.device):
            return self._launcher.record(lambda: self(images))

    def close(self) -> None:
        """Drop the weights."""
        self._network = self.head = None

    def anchors(self) -> tuple[Any, ...]:
        """Return what the last forward's graph reads besides weights, to be kept alive."""
        return getattr(self.head, "anchors", None), getattr(self.head, "strides", None)


def _open(model: Model, dtype: Any) -> Opened:
    """Read a checkpoint and lower its weights."""
    # Where a network is kept, neither Ultralytics nor what reads its checkpoints is imported.
    from brimful.models.checkpoint import load_checkpoint

    options = model.options
    loaded = load_checkpoint(
        model.path,
        nms=options.nms,
        overrides=options.overrides,
        trust=options.trust,
        max_det=options.max_det,
        digest=model.digest,
    )
    if dtype != torch.float32:
        _lower(loaded.network, dtype)
    return loaded.spec, loaded.network


def _open_fused(model: Model, dtype: Any) -> Opened:
    """Read a checkpoint, lower its weights and fuse its parts."""
    spec, network = _open(model, dtype)
    fuse(network, Launcher(), dtype)
    _decode_in_float(network.model[-1])
    return spec, network


def _launcher_of(network: Any) -> Launcher | None:
    """Return what runs the kernels of a network that was fused."""
    launchers = (vars(part).get("_launcher") for part in network.modules())
    return next((one for one in launchers if one is not None), None)


def _lower(network: Any, dtype: Any) -> None:
    """Cast the layers that compute; the fixed weights of box decoding stay as they are."""
    fixed = set(getattr(network.model[-1], "dfl", nn.Identity()).modules())
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and module not in fixed:
            module.to(dtype)


def _decode_in_float(head: Any) -> None:
    """Let the last convolutions of a head that were not fused give float32."""
    for parent in head.modules():
        if isinstance(parent, nn.Sequential | nn.ModuleList):
            for child in parent.children():
                if isinstance(child, nn.Conv2d):
                    child.register_forward_hook(_as_float)


def _as_float(module: Any, inputs: Any, output: Any) -> Any:
    return output.float()
