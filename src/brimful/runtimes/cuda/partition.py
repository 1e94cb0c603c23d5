"""Partition: a share of the device's multiprocessors, so that small work always finds one free.

What brings the next batch onto the device is small: copies between planes, two kernels. On streams
of ordinary priority, and nvJPEG's own have no other, it queues behind the blocks of whole layers.
So the network gets all multiprocessors but a few: a "green context" of the CUDA driver
(docs.nvidia.com/cuda/cuda-driver-api, group "Green Contexts"; CUDA 12.4).
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from brimful.errors import RuntimeFailedError

LEFT = 12
"""Multiprocessors left to decode and placing, of 132 on an H200: the network is as fast with the
rest (benchmarks/NOTES.md)."""

SMALLEST = 64
"""Multiprocessors of a device below which there are none to spare."""

_SM = 1  # CU_DEV_RESOURCE_TYPE_SM
_DEFAULT_STREAM = 1  # CU_GREEN_CTX_DEFAULT_STREAM
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_RESOURCE = 4096  # more than a CUdevResource of any version takes


class Partition:
    """Streams whose kernels run on a part of the device only."""

    def __init__(self, device: torch.device) -> None:
        """Set multiprocessors apart.

        Args:
            device: CUDA device with an index, the current one, awake.

        Raises:
            RuntimeFailedError: The driver is too old, or the device too small.
        """
        count = torch.cuda.get_device_properties(device).multi_processor_count
        if count < SMALLEST:
            raise RuntimeFailedError(f"the device has {count} multiprocessors, too few to share")
        self._device = device
        self._context = ctypes.c_void_p()
        self._streams: list[ctypes.c_void_p] = []
        try:
            self._driver = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise RuntimeFailedError(
                f"the CUDA driver's library cannot be loaded: {error}"
            ) from None
        ordinal = ctypes.c_int()
        self._call("cuDeviceGet", ctypes.byref(ordinal), ctypes.c_int(device.index))
        whole, part, rest = (ctypes.create_string_buffer(_RESOURCE) for _ in range(3))
        self._call("cuDeviceGetDevResource", ordinal, whole, _SM)
        groups = ctypes.c_uint(1)
        self._call(
            *("cuDevSmResourceSplitByCount", part, ctypes.byref(groups), whole, rest),
            *(ctypes.c_uint(0), ctypes.c_uint(count - LEFT)),
        )
        described = ctypes.c_void_p()
        self._call("cuDevResourceGenerateDesc", ctypes.byref(described), part, ctypes.c_uint(1))
        self._call(
            *("cuGreenCtxCreate", ctypes.byref(self._context), described, ordinal),
            ctypes.c_uint(_DEFAULT_STREAM),
        )

    def stream(self) -> Any:
        """Return a new torch.cuda.ExternalStream of ordinary priority; it lives until `close`."""
        stream = ctypes.c_void_p()
        self._call(
            *("cuGreenCtxStreamCreate", ctypes.byref(stream), self._context),
            *(ctypes.c_uint(_NON_BLOCKING), ctypes.c_int(0)),
        )
        self._streams.append(stream)
        return torch.cuda.ExternalStream(stream.value, self._device)  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Destroy the streams, which must be idle and unused from now on, and the context."""
        for stream in self._streams:
            self._driver.cuStreamDestroy_v2(stream)
        self._streams.clear()
        if self._context:
            self._driver.cuGreenCtxDestroy(self._context)
            self._context = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        try:
            status = getattr(self._driver, name)(*arguments)
        except AttributeError:
            raise RuntimeFailedError(f"the CUDA driver is too old: it has no {name}") from None
        if status != 0:
            raise RuntimeFailedError(f"{name} failed with CUresult {status}")
