"""What the interpreter of Triton computes otherwise than a GPU, for tests that compare bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray


def product_in_order(a: NDArray[Any], b: NDArray[Any], dtype: Any) -> NDArray[Any]:
    """Return `a @ b`, each element of which is summed from the first inner index to the last.

    `numpy.matmul` leaves the order to the BLAS library. Some of its kernels (OpenBLAS's for
    Haswell) sum a row in another order when the row is at another place in the matrix, so that
    the same row of `a` gives other bits there. Here every product and every sum is rounded once,
    element by element, which is the same on every CPU.
    """
    a, b = a.astype(dtype), b.astype(dtype)
    total = np.zeros((*a.shape[:-1], b.shape[-1]), dtype)
    term = np.empty_like(total)
    for inner in range(a.shape[-1]):
        np.multiply(a[..., inner, None], b[..., inner, None, :], out=term)
        total += term
    return total


def sum_products_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `tl.dot` sum in the order of `product_in_order` in Triton's interpreter.

    A call sums its own products first and adds them to what it is given, as the interpreter does:
    where a kernel cuts its inner dimension still decides the bits. A GPU is not affected.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_dot(
        self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any
    ) -> Any:
        for operand in (a, b):
            if operand.dtype.scalar not in (tl.float16, tl.float32):
                raise NotImplementedError(f"a product of {operand.dtype} in order")
        product = product_in_order(a.data, b.data, d.data.dtype)
        return TensorHandle(product + d.data, d.dtype.scalar)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
