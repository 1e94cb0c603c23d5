"""Compile the C files of this package into libraries beside them.

The build of the package calls this (`hatch_build.py`), so that nothing is compiled where brimful
runs. It imports nothing of the package. In a checkout that is not installed, or after a change of
a C file, call it by hand:

    python src/brimful/native/build.py
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TIMEOUT_S = 60


class CompilerError(Exception):
    """There is no C compiler, or it failed."""


def library_of(source: Path) -> Path:
    """Return where the library of a C file is; another text of the file has another library."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return source.with_name(f"{source.stem}-{digest}.so")


def build(folder: Path = FOLDER) -> list[Path]:
    """Compile every C file of a folder whose library is not there, and remove old libraries.

    Returns:
        The libraries.

    Raises:
        CompilerError: There is no compiler, or it failed.
    """
    libraries = {source: library_of(source) for source in sorted(folder.glob("*.c"))}
    missing = [source for source, library in libraries.items() if not library.exists()]
    if missing:
        compiler = _compiler()
        for source in missing:
            _compile(compiler, source, libraries[source])
    for old in folder.glob("*.so"):
        if old not in libraries.values():
            old.unlink()
    return list(libraries.values())


def _compile(compiler: list[str], source: Path, library: Path) -> None:
    building = library.with_suffix(f".{os.getpid()}.tmp")
    command = [*compiler, "-O2", "-shared", "-fPIC", "-o", str(building), str(source)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode:
            raise CompilerError(
                f"the C compiler {compiler[0]} failed on {source.name}: {done.stderr.strip()}"
            )
        building.replace(library)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerError(f"the C compiler {compiler[0]} failed: {error}") from None
    finally:
        building.unlink(missing_ok=True)


def _compiler() -> list[str]:
    named = shlex.split(os.environ.get("CC", ""))
    for command in (named, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return command
    raise CompilerError("there is no C compiler: expected cc, gcc, clang or what CC names")


if __name__ == "__main__":
    try:
        for built in build():
            print(built.name)
    except CompilerError as fault:
        sys.exit(str(fault))
