"""The CUDA context of a process, made so that it takes no more memory than it needs.

A context sets a stack aside for every thread that the device could run at a time, 1 KiB each: 264
MiB on an H200, half of what a context takes, and kernels like these have none. The driver gives a
kernel more when it is launched (CUDA driver API, CU_LIMIT_STACK_SIZE), so the limit may be low.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch

from brimful.cuda.module import load_driver

_STACK_SIZE = 0  # CU_LIMIT_STACK_SIZE


def prepare_context(device: Any) -> None:
    """Make the context of a device, unless this process uses CUDA already.

    Args:
        device: CUDA device, with its index.
    """
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return  # somebody else made it, as they wanted it
    # PyTorch gives cuBLAS 32 MiB a stream to work with, and the products here are small.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    driver = load_driver()
    ordinal, context = ctypes.c_int(), ctypes.c_void_p()
    # PyTorch takes the same context when its turn comes. What is wrong here it will say better.
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(ordinal), device.index):
        return
    if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), ordinal):
        return
    if driver.cuCtxPushCurrent_v2(context) == 0:
        driver.cuCtxSetLimit(_STACK_SIZE, ctypes.c_size_t(0))
        driver.cuCtxPopCurrent_v2(ctypes.byref(context))
