"""Puts tests/ on the import path, takes the clock out of hypothesis, and guards the gpu tests."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from shared_files import missing_line

if not Path("/dev/nvidiactl").exists():
    # Kernels run in Triton's interpreter, which has to be said before anything imports Triton.
    os.environ.setdefault("TRITON_INTERPRET", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and what it starts would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("brimful", deadline=None)
settings.load_profile("brimful")

pytest_plugins = ("gpu_report",)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line what was skipped for want of the shared files."""
    line = missing_line(terminalreporter.stats.get("skipped", []))
    if line is not None:
        terminalreporter.write_line(line, yellow=True)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a gpu test without CUDA, unless REQUIRE_CUDA=1: a lost GPU cannot turn green."""
    if item.get_closest_marker("gpu") is None:
        return
    try:
        import torch
    except ImportError:
        found = False
    else:
        found = torch.cuda.is_available()
    if found:
        return
    if os.environ.get("REQUIRE_CUDA") == "1":
        pytest.fail("REQUIRE_CUDA=1, but PyTorch finds no CUDA device")
    pytest.skip("needs CUDA")
