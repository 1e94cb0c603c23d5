"""Device memory that is cleared without a kernel of PyTorch's.

The first of PyTorch's own kernels that is launched takes 92 MiB of an H200's memory, for code that
is loaded with it. The driver's memset needs none, and a CUDA graph can capture it.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from brimful.cuda.driver import load_driver
from brimful.errors import RuntimeFailedError

_NO_CONTEXT = 201  # CUDA_ERROR_INVALID_CONTEXT


def zeros(shape: tuple[int, ...], dtype: Any, device: Any) -> Any:
    """Return a new tensor of zeros, cleared on the current stream.

    Args:
        shape: Its sides.
        dtype: A torch dtype; the bits of zero are all 0.
        device: A torch device or its name.

    Raises:
        RuntimeFailedError: The driver refuses.
        torch.OutOfMemoryError: It does not fit.
    """
    made = torch.empty(shape, dtype=dtype, device=device)
    clear(made)
    return made


def clear(tensor: Any) -> None:
    """Queue what sets a tensor to zero, on the current stream.

    Args:
        tensor: On any device; contiguous, as it is or in torch.channels_last.

    Raises:
        ValueError: There are gaps between its values.
        RuntimeFailedError: The driver refuses.
    """
    dense = tensor.is_contiguous() or (
        tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    if not dense:
        raise ValueError(
            f"expected a contiguous tensor, got {tuple(tensor.shape)} with strides "
            f"{tensor.stride()}"
        )
    if tensor.device.type != "cuda":
        tensor.zero_()
        return
    size = tensor.numel() * tensor.element_size()
    if size == 0:
        return
    stream = torch.cuda.current_stream(tensor.device)
    arguments = (
        ctypes.c_uint64(tensor.data_ptr()),
        ctypes.c_ubyte(0),
        ctypes.c_size_t(size),
        ctypes.c_void_p(stream.cuda_stream),
    )
    memset = load_driver(queueing=True).cuMemsetD8Async
    status = memset(*arguments)
    if status == _NO_CONTEXT:
        stream.query()  # a thread has no context before it calls CUDA's runtime
        status = memset(*arguments)
    if status:
        raise RuntimeFailedError(f"clearing {size} bytes of a device failed: CUDA error {status}")
