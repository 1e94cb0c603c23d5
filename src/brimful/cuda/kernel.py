"""Triton's decorator, typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function with Triton, when it is first launched or called by another kernel.

    `triton.jit` has no types, and under strict rules an untyped decorator hides the function.
    """
    return triton.jit(function)
