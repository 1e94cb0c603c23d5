"""What a job's process tells its user."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from cli_kit import PATIENCE_S

from brimful.cli.process import tell_user


@pytest.fixture(autouse=True)
def untouched_logger() -> Iterator[None]:
    logger = logging.getLogger("brimful")
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = list(before[0]), before[1], before[2]


def test_long_preparations_are_told_on_standard_error_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell_user()
    tell_user()  # a second engine in the same process
    logging.getLogger("brimful").info("compiling %d kernels ...", 57)
    seen = capsys.readouterr()
    assert seen.err == "compiling 57 kernels ...\n"
    assert not seen.out  # where the detections go


def test_nothing_is_told_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("brimful").info("compiling ...")
    assert not capsys.readouterr().err


def leave_after(setup: str, status: int) -> subprocess.CompletedProcess[str]:
    """Run a process that does something and leaves."""
    imports = "import atexit, threading, time\nfrom brimful.cli.main import leave"
    code = f"{imports}\n{setup}\nleave({status})"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S
    )


def test_leaving_runs_what_is_registered_and_keeps_what_was_printed() -> None:
    done = leave_after(
        "atexit.register(print, 'registered')\n"
        "print('o' * 100_000)\n"
        "class Left:\n"
        "    def __del__(self): print('taken apart')\n"
        "left = Left()",
        7,
    )
    assert done.returncode == 7
    assert done.stdout == "o" * 100_000 + "\nregistered\n", "nothing is taken apart"


def test_leaving_waits_for_threads_that_are_no_daemons() -> None:
    done = leave_after(
        "def work():\n"
        "    time.sleep(0.5)\n"
        "    print('done')\n"
        "threading.Thread(target=work).start()",
        3,
    )
    assert (done.returncode, done.stdout) == (3, "done\n")
