"""What becomes of something in C where nothing can be compiled, or kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from brimful.errors import BrimfulError
from brimful.native import copy_planes, json_lines, read_files
from brimful.native.load import NotCompiledError, compiled_or

REASONS = [NotCompiledError("read_files.c was not compiled")]


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*arguments: object) -> Any:
        raise error

    return fail


def test_what_can_be_loaded_is_used() -> None:
    assert compiled_or(lambda: "in C", "without", "it is slower") == "in C"


@pytest.mark.parametrize("reason", REASONS)
def test_the_log_says_what_is_slower_and_why(
    reason: BrimfulError, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "brimful"):
        assert compiled_or(raising(reason), "without", "it is slower") == "without"
    assert caplog.messages == [f"it is slower: {reason}"]


def test_a_fault_of_ours_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        compiled_or(raising(ZeroDivisionError()), None, "it is slower")


@pytest.mark.parametrize("reason", REASONS)
def test_each_of_them_has_something_to_do_without(
    reason: BrimfulError, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (copy_planes, json_lines, read_files):
        monkeypatch.setattr(module, "load_library", raising(reason))
    open_encoder = json_lines.open_encoder.__wrapped__
    assert open_encoder() is json_lines.encode_jsonl
    assert copy_planes.open_copier() is copy_planes.copy_with_numpy
    assert read_files.open_reader() is None
