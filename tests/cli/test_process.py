"""What a job's process tells its user."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

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
