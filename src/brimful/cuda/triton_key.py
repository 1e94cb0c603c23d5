"""Triton's hash of itself, which it makes before it looks its first kernel up."""

from __future__ import annotations

import importlib
import threading
from contextlib import suppress


def start_hashing() -> None:
    """Let Triton hash its own library on a thread, while others import PyTorch.

    It takes 0.4 s, most of it in C, and when several threads look kernels up, each of them does it.
    """
    threading.Thread(target=_hash, name="brimful-triton-key", daemon=True).start()


def _hash() -> None:
    # Another Triton does it at another place. Whoever needs Triton will say what is wrong with it.
    with suppress(ImportError, AttributeError, OSError):
        importlib.import_module("triton.runtime.cache").triton_key()
