"""Compile a C file of this package once a machine, and load it."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from brimful.errors import BrimfulError, UsageError
from brimful.models.artifact import artifact

T = TypeVar("T")
U = TypeVar("U")

TIMEOUT_S = 60

_log = logging.getLogger("brimful")


class CompilerError(BrimfulError):
    """There is no C compiler, or it failed."""


def load_library(name: str) -> ctypes.CDLL:
    """Return a C file of this package as a library; calls of its functions release the GIL.

    Triton needs a C compiler where it runs, so where this is used there is one; whoever calls must
    do without all the same.

    Args:
        name: Of the file, without `.c`.

    Raises:
        CompilerError: There is no compiler, or it failed.
        UsageError: The artifact cache cannot be written.
    """
    source = Path(__file__).with_name(f"{name}.c")
    compiler = _compiler()

    def build(folder: Path) -> None:
        command = [*compiler, "-O2", "-shared", "-fPIC", "-o", str(folder / "library.so")]
        try:
            done = subprocess.run(
                [*command, str(source)], capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerError(f"the C compiler {compiler[0]} failed: {error}") from None
        if done.returncode:
            raise CompilerError(
                f"the C compiler {compiler[0]} failed on {source.name}: {done.stderr.strip()}"
            )

    facts = {
        "source": source.read_text(),
        "compiler": compiler,
        "machine": platform.machine(),
        "libc": platform.libc_ver(),
        "platform": sysconfig.get_platform(),
    }
    path = artifact(f"native-{name}", facts, build, runs=True) / "library.so"
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CompilerError(f"{path} cannot be loaded: {error}") from None


def compiled_or(make: Callable[[], T], otherwise: U, consequence: str) -> T | U:
    """Return what something in C makes possible, or else what does without it.

    Args:
        make: Loads it; see `load_library` for what it raises.
        otherwise: What does without it.
        consequence: What is slower then, for the log.
    """
    try:
        return make()
    except (CompilerError, UsageError) as error:
        _log.info("%s: %s", consequence, error)
        return otherwise


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    for command in (named, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    raise CompilerError("there is no C compiler: expected cc, gcc, clang or what CC names")
