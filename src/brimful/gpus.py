"""The NVIDIA GPUs that this process may use, found without PyTorch, whose import takes seconds."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpus:
    """What the driver says.

    Attributes:
        count: GPUs that this process may use (`CUDA_VISIBLE_DEVICES` hides the others).
        cuda: Major version of CUDA that the driver speaks; 0 without a driver.
    """

    count: int = 0
    cuda: int = 0


@functools.cache
def find_gpus() -> Gpus:
    """Ask the CUDA driver, which PyTorch asks too; a machine without one has no GPUs."""
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
        count, version = ctypes.c_int(), ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return Gpus()
        driver.cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):  # no driver, or a library of that name which is none
        return Gpus()
    return Gpus(count.value, version.value // 1000)


def torch_cuda() -> int | None:
    """Return the major version of CUDA that PyTorch was built for; None for none, or no PyTorch.

    PyTorch's own file of versions is read, not run.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"](\d+)", text, re.MULTILINE)
    return int(found[1]) if found else None
