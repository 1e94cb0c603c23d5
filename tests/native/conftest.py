"""The native tests run on libraries of this checkout's C files."""

from __future__ import annotations

import pytest

from brimful.native.build import build


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    """Compile what the installation has not: a C file may have changed since."""
    build()
