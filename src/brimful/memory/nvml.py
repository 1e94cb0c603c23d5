"""What NVIDIA's management library says about the memory of a device and of this process."""

from __future__ import annotations

import os
from typing import Any

from brimful.extras import require


class DeviceMemory:
    """Memory of one device, as the driver counts it: context, libraries and all."""

    def __init__(self, uuid: str) -> None:
        """Find a device.

        Args:
            uuid: As CUDA names it, with or without `GPU-`; indexes may be remapped, names not.

        Raises:
            MissingExtraError: nvidia-ml-py is not installed.
        """
        nvml = require("pynvml", feature="A memory budget for the GPU", extra="torch")
        nvml.nvmlInit()
        self._nvml: Any = nvml
        self._handle = nvml.nvmlDeviceGetHandleByUUID(
            uuid if uuid.startswith("GPU-") else f"GPU-{uuid}"
        )

    def process(self) -> int:
        """Bytes that this process holds.

        Where the driver cannot tell processes apart (in a container it may not see their numbers),
        it is what the whole device has in use: never too little.
        """
        for process in self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle):
            if process.pid == os.getpid() and process.usedGpuMemory:
                return int(process.usedGpuMemory)
        return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
