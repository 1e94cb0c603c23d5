"""A word about what takes long, and silence about what does not."""

from __future__ import annotations

import logging
import threading

import pytest

from brimful.log_slow import log_slow


def test_what_lasts_is_announced_with_its_time(caplog: pytest.LogCaptureFixture) -> None:
    spoken = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            spoken.set()

    logger = logging.getLogger("brimful")
    handler = Heard()
    logger.addHandler(handler)
    try:
        level = caplog.at_level(logging.INFO, "brimful")
        with level, log_slow("compiling 3 kernels, once", patience_s=0):
            assert spoken.wait(10)  # while it lasts, not afterwards
    finally:
        logger.removeHandler(handler)
    first, last = (record.getMessage() for record in caplog.records)
    assert first == "compiling 3 kernels, once ..."
    assert last.startswith("compiling 3 kernels: done in ") and last.endswith(" s")


def test_what_is_quick_goes_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "brimful"), log_slow("blinking", patience_s=60):
        pass
    assert not caplog.records
    assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer) and t.is_alive()]


def test_what_fails_is_not_said_to_be_done(caplog: pytest.LogCaptureFixture) -> None:
    level, raises = caplog.at_level(logging.INFO, "brimful"), pytest.raises(ValueError, match="no")
    with level, raises, log_slow("trying", patience_s=60):
        raise ValueError("no")
    assert not caplog.records
