"""Child processes of Python, none of which runs code from the folder it is started in.

`python -m` and `python -c` look for modules in the current folder first, and that may be a folder
of images from anywhere: a `random.py` in it would run.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator

_VARIABLE = "PYTHONSAFEPATH"
_starting = threading.RLock()  # one environment for all threads


def python_command(*arguments: str) -> list[str]:
    """Return the command that runs this Python with arguments and a safe path."""
    return [sys.executable, "-P", *arguments]


@contextlib.contextmanager
def safe_path() -> Iterator[None]:
    """Give what is started meanwhile a safe path, for `multiprocessing`, which takes no options."""
    with _starting:
        before = os.environ.get(_VARIABLE)
        os.environ[_VARIABLE] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_VARIABLE]
            else:
                os.environ[_VARIABLE] = before
