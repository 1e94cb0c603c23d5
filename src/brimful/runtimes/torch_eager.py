"""The `torch` and `torchscript` runtimes: the network itself, or a traced file of it.

Both take uint8 pixels and normalise on the device, so a quarter of the bytes is copied. A
checkpoint on CUDA has a runtime of its own (cuda/).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from brimful.cpus import available_cpus
from brimful.errors import UsageError
from brimful.extras import require
from brimful.models.checkpoint import load_checkpoint
from brimful.models.model import Model
from brimful.runtimes.runtime import (
    Done,
    HostSlot,
    InputFormat,
    OutOfMemoryError,
    Outputs,
    Params,
    RuntimeOptions,
    Slot,
    new_input,
)
from brimful.runtimes.script import load_script
from brimful.runtimes.video import VideoDevice
from brimful.runtimes.workers import ForwardWorkers
from brimful.spec import Size


@dataclass(slots=True)
class TorchSlot(HostSlot):
    """A slot of host memory; pinned where the device is a GPU."""

    tensor: Any


class TorchRuntime:
    """Executes a network in eager PyTorch."""

    input_format: InputFormat = "hwc_u8"
    accepts_encoded = None
    accepts_frame = None
    pinned_for = None
    video: VideoDevice | None = None
    concurrency = 1
    partial_batches_below = 1
    prefetch = 1

    def __init__(self, model: Model, options: RuntimeOptions) -> None:
        """Load a checkpoint or a TorchScript file onto a device.

        Raises:
            MissingExtraError: torch is not installed.
            ModelError: The file cannot be read.
            UsageError: A device or precision that this machine does not have.
        """
        torch = require("torch", feature="The torch runtime", extra="torch")
        self._torch = torch
        self.name = "torchscript" if model.format == "torchscript" else "torch"
        self._device = cuda_or_cpu(torch, options.device)
        self._threads = options.threads or available_cpus()
        self._precision = options.precision
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        self._dtype = dtype[options.precision]
        if self._device.type == "cpu" and options.precision == "fp16":
            raise UsageError("precision 'fp16' is not available with torch on the CPU; use bf16")
        if model.format == "torchscript":
            self._network, self.spec = load_script(torch, model)
            if options.precision != "fp32":
                raise UsageError(
                    "a TorchScript file runs in the precision it was traced in; leave out precision"
                )
        else:
            loaded = load_checkpoint(
                model.path,
                nms=model.options.nms,
                overrides=model.options.overrides,
                trust=model.options.trust,
                max_det=model.options.max_det,
            )
            self._network, self.spec = loaded.network, loaded.spec
        self._network = self._network.to(self._device)
        if model.format != "torchscript":
            self._network = self._network.to(memory_format=torch.channels_last)
        self.max_batch = self.spec.fixed_batch or options.max_batch or self._default_batch()
        # One thread owns the network: eager modules cache anchors between calls.
        self._workers = ForwardWorkers(1, name=self.name)

    def allocate(self, canvas: Size, *, capacity: int | None = None) -> TorchSlot:
        """Make a slot."""
        count = self.spec.fixed_batch or capacity or self.max_batch
        inputs = new_input(self.spec, self.input_format, canvas, count)
        tensor = self._torch.from_numpy(inputs)
        if self._device.type == "cuda":
            tensor = tensor.pin_memory()
            inputs = tensor.numpy()
        return TorchSlot(canvas, inputs, tensor)

    def prepare(self, canvas: Size) -> None:
        """Do nothing: slots bring all that forwards need."""

    def submit(self, slot: Slot, count: int, done: Done, params: Params = None) -> None:
        """Start the forward of the first `count` images; a fixed batch runs whole."""
        assert isinstance(slot, TorchSlot)
        size = slot.capacity if self.spec.fixed_batch else count
        self._workers.submit(lambda: self._forward(slot.tensor[:size]), done)

    def describe(self) -> dict[str, str | int]:
        """Return the version, device, precision and threads."""
        return {
            "runtime": self.name,
            "version": self._torch.__version__,
            "device": str(self._device),
            "precision": self._precision,
            "forwards": 1,
            "threads": self._threads,
        }

    def close(self) -> None:
        """Drop the network and give its memory back."""
        self._workers.close()
        self._network = None
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()

    def _default_batch(self) -> int:
        return 16 if self._device.type == "cuda" else 4

    def _forward(self, pixels: Any) -> Outputs:
        torch = self._torch
        if self._device.type == "cpu" and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                images = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
                if self.spec.channels == 3:
                    images = images.flip(1)  # BGR to RGB
                images = images.float().div_(255.0).contiguous(memory_format=torch.channels_last)
                if self._dtype == torch.float32:
                    raw = self._network(images)
                else:
                    with torch.autocast(self._device.type, dtype=self._dtype):
                        raw = self._network(images)
                outputs = raw if isinstance(raw, tuple | list) else (raw,)
                return [np.asarray(output.float().cpu().numpy()) for output in outputs]
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(str(error)) from error


def cuda_or_cpu(torch: Any, name: str) -> Any:
    """Check a device's name and return the torch device."""
    return torch.device("cpu") if name == "cpu" else cuda_device(torch, name)


def cuda_device(torch: Any, name: str) -> Any:
    """Check the name of a CUDA device and return the torch device.

    Raises:
        UsageError: The name is none, or there is no such device here.
    """
    kind, colon, index = name.partition(":")
    if kind != "cuda" or (colon and not index.isdecimal()):
        raise UsageError(f"device {name!r} is unknown; expected cpu, cuda or cuda:INDEX")
    if not torch.cuda.is_available():
        raise UsageError(
            f"device {name!r} was asked for, but PyTorch {torch.__version__} finds no CUDA device "
            "here; use device=cpu, or install a driver and a CUDA build of PyTorch"
        )
    if colon and int(index) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} was asked for, but there are {torch.cuda.device_count()} here, "
            f"numbered from 0"
        )
    return torch.device(name)
