"""The CUDA context of a process, made so that it takes no more memory than it needs.

A context sets a stack aside for every thread that the device could run at a time, 1 KiB each: 264
MiB on an H200, half of what a context takes, and kernels like these have none. The driver gives a
kernel more when it is launched (CUDA driver API, CU_LIMIT_STACK_SIZE), so the limit may be low.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from contextlib import suppress

from brimful.cuda.driver import load_driver
from brimful.errors import RuntimeFailedError

_STACK_SIZE = 0  # CU_LIMIT_STACK_SIZE
_lock = threading.Lock()


def start_context(device: str) -> None:
    """Begin to make the context of a device on a thread: it takes as long as a tenth of PyTorch.

    Args:
        device: `cuda` or `cuda:INDEX`; of any other nothing is done.
    """
    kind, _, index = device.partition(":")
    if kind == "cuda" and (not index or index.isdecimal()):
        ordinal = int(index or 0)
        work = threading.Thread(target=_start, args=(ordinal,), name="brimful-context", daemon=True)
        work.start()


def prepare_context(ordinal: int) -> None:
    """Make the context of a device, unless this process uses CUDA already.

    Args:
        ordinal: Index of the CUDA device.

    Raises:
        RuntimeFailedError: There is no driver.
    """
    with _lock:  # whoever asks while it is being made waits for it
        torch = sys.modules.get("torch")
        cuda = getattr(torch, "cuda", None)  # None while another thread imports it
        if cuda is not None and cuda.is_initialized():
            return  # somebody else made it, as they wanted it
        # PyTorch gives cuBLAS 32 MiB a stream to work with, and the products here are small.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        driver = load_driver()
        device, context = ctypes.c_int(), ctypes.c_void_p()
        # PyTorch takes the same context when its turn comes. What is wrong here it will say better.
        if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), ordinal):
            return
        if driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device):
            return
        if driver.cuCtxPushCurrent_v2(context) == 0:
            driver.cuCtxSetLimit(_STACK_SIZE, ctypes.c_size_t(0))
            driver.cuCtxPopCurrent_v2(ctypes.byref(context))


def _start(ordinal: int) -> None:
    with suppress(RuntimeFailedError):  # whoever needs the driver will say that there is none
        prepare_context(ordinal)
