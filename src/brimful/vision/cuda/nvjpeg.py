"""JPEG decode on the GPU's own JPEG engines, through NVIDIA's nvJPEG.

It binds the C library (docs.nvidia.com/cuda/nvjpeg) directly because the wrappers allocate their
outputs anew for every image. The hardware engine ignores the stream it is given and writes at once
(meta-pytorch/torchcodec PR 1634, pytorch/vision PR 9606), so whoever calls `decode` must be sure
that nothing still reads the memory it names. Here that memory is a `DecodeRing`'s.

The engines produce planes of YCbCr. Asked for RGB, the library converts with kernels of its own,
which queue behind the model's: then decode and forward take turns, and images were seen to come out
wrong under load (benchmarks/NOTES.md). So it is asked for the planes, and `ycc` converts.
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from collections.abc import Iterator, Sequence
from ctypes.util import find_library
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from brimful.errors import RuntimeFailedError
from brimful.vision.header import Header

_HARDWARE = 3  # nvjpegBackend_t: the JPEG engines, which leave the multiprocessors free
_PLANES = 1  # nvjpegOutputFormat_t: Y, Cb and Cr as they were stored, chroma subsampled
_SAMPLINGS = ((1, 1), (2, 1), (1, 2), (2, 2))
_STATUS = (
    *("success", "not initialized", "invalid parameter", "bad JPEG", "JPEG not supported"),
    *("allocator failed", "execution failed", "architecture mismatch", "internal error"),
    *("implementation not supported", "incomplete bitstream"),
)
_lock = threading.Lock()


class _Image(ctypes.Structure):
    """nvjpegImage_t."""

    _fields_ = (("channel", ctypes.c_void_p * 4), ("pitch", ctypes.c_size_t * 4))


class NvJpegError(RuntimeFailedError):
    """A call of nvJPEG failed."""

    def __init__(self, call: str, status: int) -> None:
        """Say which call failed, and how."""
        reason = _STATUS[status] if 0 <= status < len(_STATUS) else f"status {status}"
        super().__init__(f"{call} failed: {reason}")
        self.status = status


class NvJpeg:
    """Decoder of batches of JPEGs. `decode` releases the interpreter.

    Threads take turns: a call keeps the engines busy, and two at a time only hold each other up in
    the driver (benchmarks/NOTES.md).
    """

    def __init__(self, batch: int) -> None:
        """Start the engines for the current CUDA device.

        Args:
            batch: Images that `decode` is given at most.

        Raises:
            NvJpegError: This GPU has no JPEG engine.
            RuntimeFailedError: The library is not installed.
        """
        self._library = _load()
        self._handle = ctypes.c_void_p()
        self._state = ctypes.c_void_p()
        self._turn = threading.Lock()
        self._prepared = 0
        self._call("nvjpegCreateEx", _HARDWARE, None, None, 0, ctypes.byref(self._handle))
        try:
            self._call("nvjpegJpegStateCreate", self._handle, ctypes.byref(self._state))
        except BaseException:
            self.close()
            raise
        self._images = (_Image * batch)()
        fields = np.frombuffer(memoryview(self._images), np.uint64).reshape(batch, -1)
        self._pointers, self._pitches = fields[:, 0:3], fields[:, 4:7]

    @staticmethod
    def takes(header: Header) -> bool:
        """Whether the engines decode such an image: a baseline JPEG in YCbCr."""
        return header.baseline and header.sampling in _SAMPLINGS

    def decode(
        self,
        data: Sequence[bytes | memoryview],
        pointers: NDArray[np.int64],
        pitches: NDArray[np.int64],
        stream: int,
    ) -> None:
        """Decode images to planes of Y, Cb and Cr, chroma subsampled as stored.

        Args:
            data: Encoded images, at most `batch`; views must be of writable memory.
            pointers: int64 (images, 3), device address of each one's planes.
            pitches: int64 (images, 3), bytes from row to row of each.
            stream: CUDA stream for what does not run on the engines; it must be idle. When it is
                synchronised, the pixels are there.

        Raises:
            NvJpegError: An image of the batch cannot be decoded; the others may be undecoded too.
        """
        count = len(data)
        files = (ctypes.c_void_p * count)(*map(_address, data))
        lengths = (ctypes.c_size_t * count)(*map(len, data))
        with self._turn:
            if count != self._prepared:  # the state is made for one batch size
                self._call(
                    *("nvjpegDecodeBatchedInitialize", self._handle, self._state),
                    *(count, 1, _PLANES),
                )
                self._prepared = count
            self._pointers[:count] = pointers
            self._pitches[:count] = pitches
            self._call(
                *("nvjpegDecodeBatched", self._handle, self._state, files, lengths),
                *(self._images, ctypes.c_void_p(stream)),
            )

    def close(self) -> None:
        """Release the engines' memory."""
        if self._state:
            self._library.nvjpegJpegStateDestroy(self._state)
            self._state = ctypes.c_void_p()
        if self._handle:
            self._library.nvjpegDestroy(self._handle)
            self._handle = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status != 0:
            raise NvJpegError(name, status)


def _address(data: bytes | memoryview) -> int | None:
    if isinstance(data, bytes):
        return ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value
    return ctypes.addressof(ctypes.c_char.from_buffer(data))


_loaded: Any = None


def _load() -> Any:
    """Load the library once; the first name that works wins."""
    global _loaded
    with _lock:
        if _loaded is None:
            for name in _names():
                try:
                    _loaded = ctypes.CDLL(name)
                    break
                except OSError:
                    continue
            else:
                raise RuntimeFailedError(
                    "nvJPEG is not installed: expected libnvjpeg.so beside torchvision, in the "
                    "nvidia-nvjpeg package, or in the CUDA toolkit; install one of them"
                )
    return _loaded


def _names() -> Iterator[str]:
    for package, pattern in (("nvidia", "**/libnvjpeg.so*"), ("torchvision", "libnvjpeg*.so*")):
        spec = importlib.util.find_spec(package)
        for location in (spec.submodule_search_locations or ()) if spec else ():
            folder = Path(location)
            if package == "torchvision":
                folder = folder.parent / "torchvision.libs"
            yield from sorted(str(path) for path in folder.glob(pattern))
    yield from ("libnvjpeg.so.13", "libnvjpeg.so.12", "libnvjpeg.so")
    found = find_library("nvjpeg")
    if found is not None:
        yield found
    yield from sorted(str(path) for path in Path("/usr/local/cuda/lib64").glob("libnvjpeg.so*"))
