"""The `onnxruntime` runtime on CUDA: the lanes of the torch runtime with another network on them.

Decoding, letterbox, selection, batching and the memory budget are the torch runtime's. A lane's
forward is a session of onnxruntime on the lane's stream, queued as PyTorch's kernels are.
"""

from __future__ import annotations

import torch

from brimful.cuda.captures import synchronize
from brimful.cuda.memory import zeros
from brimful.cuda.streams import give_stream, take_stream
from brimful.models.model import Model
from brimful.runtimes.cuda.network.forward import Network
from brimful.runtimes.cuda.onnx.network import OnnxNetwork
from brimful.runtimes.cuda.onnx.provider import CUDA, ProviderTechniques, check_provider
from brimful.runtimes.cuda.runtime import LANES, TorchCudaRuntime
from brimful.runtimes.cuda.techniques import DEFAULT, Techniques
from brimful.runtimes.runtime import OutOfMemoryError, RuntimeOptions
from brimful.spec import ModelSpec, Size

TORCH_ROOM = 1.25
"""PyTorch keeps memory in blocks: what its tensors take may be so much more."""

TORCH_LEAST = 32 * 2**20


class OnnxCudaRuntime(TorchCudaRuntime):
    """Executes a model with onnxruntime's CUDA provider."""

    name = "onnxruntime"

    def __init__(
        self,
        model: Model,
        options: RuntimeOptions,
        techniques: Techniques = DEFAULT,
        provider: ProviderTechniques | None = None,
    ) -> None:
        """Load a model onto a GPU.

        Args:
            model: An `.onnx` file, or a `.pt` that is converted once.
            options: What the user asked for.
            techniques: Of the lanes.
            provider: Of onnxruntime.

        Raises:
            ModelError: The file cannot be read or run.
            UsageError: There is no such device, no CUDA provider, or not this precision.
        """
        check_provider(options.device)
        self._provider = provider or ProviderTechniques()
        super().__init__(model, options, techniques)

    def describe(self) -> dict[str, str | int]:
        """Return the versions, device, precision and where images are decoded."""
        import onnxruntime

        return {
            "runtime": self.name,
            "version": onnxruntime.__version__,
            "torch": torch.__version__,
            "provider": CUDA,
            "device": torch.cuda.get_device_name(self._device),
            "precision": self._precision,
            "graphs": self._onnx.graphs,
            "decode": self._decode_note,
            "frames": self._host_frames_note,
            "forwards": LANES,
        }

    def _open_network(self, model: Model, options: RuntimeOptions) -> Network:
        self._onnx = OnnxNetwork(model, options.precision, self._device, techniques=self._provider)
        return self._onnx

    def _open_lanes(self, batch: int) -> None:
        self._onnx.release()
        if self._budget is not None:
            decode = self._budget.limit // 16 if self._techniques.decode else 0
            own = torch_bytes(self._onnx.spec, batch, self._largest, self._onnx.dtype.itemsize)
            left = self._budget.share(own + decode)
            if left <= 0:
                raise OutOfMemoryError("PyTorch's tensors alone do not fit the budget")
            self._onnx.limit = left // LANES
        super()._open_lanes(batch)

    def _close_lanes(self) -> None:
        super()._close_lanes()
        self._onnx.release()

    def _wake_libraries(self) -> None:
        """Open and run as many sessions as there will be lanes; they go when lanes are opened.

        What is measured then has the weights in it, and so has the limit of each session: a budget
        is kept with so much to spare.
        """
        spec = self._onnx.spec
        size = spec.fixed_size or (2 * spec.stride, 2 * spec.stride)
        shape = (spec.fixed_batch or 1, spec.channels, *size)
        blank = zeros(shape, self._onnx.dtype, self._device)
        synchronize(self._device)
        for _ in range(LANES):
            stream = take_stream(self._device)
            with torch.cuda.stream(stream):
                self._onnx.on(stream)(blank)
            stream.synchronize()
            give_stream(stream)


def torch_bytes(spec: ModelSpec, batch: int, canvas: Size, itemsize: int) -> int:
    """Return the bytes that PyTorch's tensors of all lanes take, generously.

    Args:
        spec: The model.
        batch: Images of a batch.
        canvas: (height, width) of the largest.
        itemsize: Bytes of a value of the images.
    """
    pixels = canvas[0] * canvas[1]
    images = 2 * spec.channels * pixels * itemsize  # channels last, and as onnxruntime reads them
    anchors = sum(pixels // stride**2 for stride in (8, 16, 32))
    rows = spec.max_det if spec.head == "nms_free" else anchors
    head = rows * (6 + spec.classes + spec.extra)
    masks = spec.mask_channels * pixels // 16
    outputs = 2 * 4 * (head + masks) + 2 * 8 * anchors  # as bound, in float32, and the keys of NMS
    return int(LANES * batch * TORCH_ROOM * (images + outputs)) + TORCH_LEAST
