"""Tables: int64 rows that tell a kernel where the images of a batch are, one row each."""

from __future__ import annotations

from typing import Any

import torch


def check_table(table: Any, columns: int, count: int) -> None:
    """Check what a kernel is going to read.

    Args:
        table: What should be int64 (at least count, columns), contiguous.
        columns: Numbers that describe an image.
        count: Rows to read.

    Raises:
        ValueError: It is something else.
    """
    if table.dtype != torch.int64 or table.ndim != 2 or not table.is_contiguous():
        raise ValueError(f"expected a contiguous int64 table, got {table.dtype} {table.shape}")
    if table.shape[1] != columns or not 0 <= count <= table.shape[0]:
        raise ValueError(
            f"expected a table of at least {count} rows of {columns}, got {tuple(table.shape)}"
        )
