"""Launch: a Triton kernel with its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FUSION = {"enable_fp_fusion": True}
"""A product and a sum are rounded once. Triton's default was this up to 3.9, and is not after."""


@dataclass(frozen=True, slots=True)
class Pointer:
    """What Triton asks of a tensor when it compiles for it.

    Attributes:
        dtype: Of its values.
        address: Of the first one; kernels differ by whether it is a multiple of 16.
    """

    dtype: Any
    address: int

    def data_ptr(self) -> int:
        """Return the address, as tensors do."""
        return self.address


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with its arguments, to be compiled or to be run."""

    kernel: Any
    grid: tuple[int]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]

    def run(self) -> None:
        """Launch it on the current stream."""
        self.kernel[self.grid](*self.arguments, **FUSION, **self.constants)

    def compile(self) -> Any:
        """Compile it, or find it in Triton's cache; return Triton's compiled kernel."""
        return self.kernel.warmup(*self.arguments, grid=self.grid, **FUSION, **self.constants)

    def detached(self) -> Launch:
        """Return the launch without its tensors' memory, to be compiled and not to be run."""
        pointers = tuple(
            Pointer(value.dtype, value.data_ptr()) if hasattr(value, "data_ptr") else value
            for value in self.arguments
        )
        return Launch(self.kernel, self.grid, pointers, self.constants)
