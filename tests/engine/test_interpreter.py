"""The garbage collector of a process that runs one job."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from brimful.engine.interpreter import collector_off, prepare_interpreter


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    threshold = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*threshold)
    gc.enable()


def test_it_rests_within_the_block_and_works_behind_it() -> None:
    with collector_off():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="refused"), collector_off():
        raise ValueError("refused")
    assert gc.isenabled()
    gc.disable()  # as the caller wants it
    with collector_off():
        pass
    assert not gc.isenabled()


def test_what_is_there_is_not_looked_at_again() -> None:
    before = gc.get_freeze_count()
    prepare_interpreter()
    assert gc.get_freeze_count() > before + 1000
    assert gc.isenabled() and gc.get_threshold()[0] == 10_000
