"""Write-back ahead of the end: what is begun, and that an error of the disk is still told."""

from __future__ import annotations

import ctypes
import os
import sys

import pytest
from sink_kit import BATCH, names_in, sink_to

from brimful.errors import BrimfulError
from brimful.formats.json_record import encode_jsonl
from brimful.sinks import flush_ahead as write_back
from brimful.sinks import journal as module
from brimful.sinks.journal import Journal

MIB = 2**20


@pytest.fixture
def begun(monkeypatch):
    """What was begun of a file: (offset, bytes) of each call."""
    calls = []
    monkeypatch.setattr(module, "flush_ahead", lambda _, *part: calls.append(part))
    return calls


def lines(size: int) -> bytes:
    return b"x" * (size - 1) + b"\n"


def test_whole_pieces_are_begun_once(tmp_path, begun):
    journal = Journal(tmp_path / "j")
    for size in (MIB - 1, 1, 100, MIB, 3 * MIB, MIB - 101, 1, 5):
        journal.append(lines(size))
    assert begun == [(0, MIB), (MIB, MIB), (2 * MIB, 3 * MIB), (5 * MIB, MIB)]
    journal.clear()
    journal.append(lines(2 * MIB + 7))
    assert begun[4:] == [(0, 2 * MIB)]
    journal.close()


def test_a_resumed_journal_begins_with_what_it_has(tmp_path, begun):
    (tmp_path / "j").write_bytes(lines(MIB + 5))
    journal = Journal(tmp_path / "j")
    journal.append(lines(10))
    journal.append(lines(MIB))
    assert begun == [(0, MIB), (MIB, MIB)]
    journal.close()


def test_what_could_not_be_appended_is_not_begun(tmp_path, begun, monkeypatch):
    journal = Journal(tmp_path / "j")
    journal.append(lines(MIB - 10))
    real, calls = os.write, []

    def full(descriptor, data):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:MIB])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(BrimfulError, match="No space left"):
            journal.append(lines(2 * MIB))
    assert begun == []
    journal.append(lines(10))
    assert begun == [(0, MIB)]
    assert (tmp_path / "j").read_bytes() == lines(MIB - 10) + lines(10)
    journal.close()


def test_what_is_begun_is_what_was_written(tmp_path):
    row = encode_jsonl(BATCH)
    batch = row * (300_000 // len(row))
    sink = sink_to(tmp_path / "out.jsonl")
    for _ in range(12):
        sink.append(batch)
    sink.finish()
    assert (tmp_path / "out.jsonl").read_bytes() == 12 * batch


def test_an_error_of_the_disk_is_told_by_finish(tmp_path, monkeypatch):
    sink = sink_to(tmp_path / "out.jsonl")
    sink.append(encode_jsonl(BATCH))

    def broken(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(BrimfulError, match=r"Input/output error.*--resume"):
            sink.finish()
    assert "out.jsonl" not in names_in(tmp_path)
    sink.finish()
    assert names_in(tmp_path) == ["out.jsonl"]


@pytest.mark.skipif(sys.platform != "linux", reason="a call of Linux")
def test_linux_takes_the_call(tmp_path):
    call = write_back._sync_file_range()
    assert call is not None
    with (tmp_path / "f").open("wb") as file:
        file.write(bytes(MIB))
        file.flush()
        descriptor = file.fileno()
        assert call(descriptor, 0, MIB, write_back._WRITE) == 0
        assert call(descriptor, 2**40, 2**40, write_back._WRITE) == 0
        assert call(descriptor, -(2**40), MIB, write_back._WRITE) == -1
        assert call(descriptor, 0, -(2**40), write_back._WRITE) == -1
    assert write_back.flush_ahead(-1, 0, MIB) is None  # `fsync` will say so


@pytest.mark.parametrize("library", [object(), OSError("there is none")])
def test_elsewhere_nothing_is_begun(tmp_path, monkeypatch, library):
    def opened(_):
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", opened)
    write_back._sync_file_range.cache_clear()
    try:
        with (tmp_path / "f").open("wb") as file:
            write_back.flush_ahead(file.fileno(), 0, MIB)
        assert write_back._sync_file_range() is None
    finally:
        write_back._sync_file_range.cache_clear()
