"""The journal: JSON lines appended as results come, and what an interruption left of them."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from brimful.errors import BrimfulError, UsageError
from brimful.sinks.done import DoneSet
from brimful.sinks.write_back import begin_write_back

_BLOCK = 1 << 16

_PIECE = 1 << 20
"""Bytes that go to the disk together, ahead of `sync`."""


class Journal:
    """A file of JSON lines, open for appending and locked against a second writer.

    Every append reaches the operating system before it returns, so a killed process loses
    nothing that was appended; at most the line being written then is torn. What was appended is
    on its way to the disk soon, so that `sync` has little left to wait for.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file.

        Raises:
            UsageError: Another process has it open, or the folder cannot be written.
        """
        self.path = path
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise UsageError(f"another process is writing {path}; wait for it or stop it") from None
        except OSError:  # a file system without locks
            pass
        self._size = os.fstat(self._descriptor).st_size
        self._begun = 0

    def clear(self) -> None:
        """Forget everything."""
        os.ftruncate(self._descriptor, 0)
        self._size = self._begun = 0

    def repair(self) -> None:
        """Cut off a last line that was torn: one without its newline. Its image is done again.

        The newline is the last byte of a row, so a row that has it is whole.
        """
        end = self._line_start(self._size)
        if end != self._size:
            os.ftruncate(self._descriptor, end)
            self._size = end

    def done(self) -> DoneSet:
        """Return which images and frames have a row.

        Raises:
            UsageError: A line is no row.
        """
        done = DoneSet()
        for record in read_rows(self.path):
            done.add(record["image"], record["frame"], failed=record.get("error") is not None)
        return done

    def append(self, lines: bytes) -> None:
        """Append whole lines, all of them or none.

        Raises:
            BrimfulError: The disk is full or gone.
        """
        view = memoryview(lines)
        try:
            while view:
                view = view[os.write(self._descriptor, view) :]
        except OSError as error:
            # A later append must not continue a torn line.
            os.ftruncate(self._descriptor, self._size)
            raise BrimfulError(
                f"{self.path} cannot be written: {error.strerror}. What is in it is whole: "
                "go on with --resume"
            ) from error
        self._size += len(lines)
        whole = self._size - self._size % _PIECE  # a page that is appended to is not written twice
        if whole > self._begun:
            begin_write_back(self._descriptor, self._begun, whole - self._begun)
            self._begun = whole

    def sync(self) -> None:
        """Bring everything to the disk."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file and free the lock; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _line_start(self, before: int) -> int:
        """Return the offset after the last newline before an offset, 0 without one."""
        while before > 0:
            at = max(0, before - _BLOCK)
            newline = os.pread(self._descriptor, before - at, at).rfind(b"\n")
            if newline >= 0:
                return at + newline + 1
            before = at
        return 0


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a journal, one in memory at a time.

    Raises:
        UsageError: A line is no row.
    """
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            row = _row(line)
            if row is None:
                raise UsageError(
                    f"line {number} of {path} is no result of brimful; was the file edited? "
                    "Use --overwrite to start the job anew"
                )
            yield row


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "image" in row and "frame" in row else None
