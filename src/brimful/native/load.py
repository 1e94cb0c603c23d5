"""Load what was compiled of this package's C files, or go on without."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from brimful.errors import BrimfulError
from brimful.native.build import library_of

T = TypeVar("T")
U = TypeVar("U")

_log = logging.getLogger("brimful")


class NotCompiledError(BrimfulError):
    """A C file of this package was not compiled when brimful was installed, or cannot be loaded."""


def load_library(name: str) -> ctypes.CDLL:
    """Return a C file of this package as a library; calls of its functions release the GIL.

    Args:
        name: Of the file, without `.c`.

    Raises:
        NotCompiledError: There is no library of it; whoever calls must do without.
    """
    library = library_of(Path(__file__).with_name(f"{name}.c"))
    if not library.exists():
        raise NotCompiledError(
            f"{name}.c was not compiled when brimful was installed; install it again where there "
            "is a C compiler"
        )
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NotCompiledError(f"{library.name} cannot be loaded: {error}") from None


def compiled_or(make: Callable[[], T], otherwise: U, consequence: str) -> T | U:
    """Return what something in C makes possible, or else what does without it.

    Args:
        make: Loads it; see `load_library` for what it raises.
        otherwise: What does without it.
        consequence: What is slower then, for the log.
    """
    try:
        return make()
    except NotCompiledError as error:
        _log.info("%s: %s", consequence, error)
        return otherwise
