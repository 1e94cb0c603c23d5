"""The journal: JSON lines appended as results come, and what an interruption left of them."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from brimful.errors import BrimfulError, UsageError
from brimful.sinks.done import DoneSet
from brimful.sinks.flush_ahead import flush_ahead

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
            UsageError: Another process has it open, it is no regular file, or the folder cannot
                be written.
        """
        self.path = path
        self._descriptor = _open_locked(path)
        self._size = os.fstat(self._descriptor).st_size
        self._begun = 0

    @property
    def empty(self) -> bool:
        """Whether it has no rows."""
        return self._size == 0

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

    def done(self, classes: int) -> DoneSet:
        """Return which images and frames have a row.

        Args:
            classes: Of the model: a row of another one ends the job here, not at its end.

        Raises:
            UsageError: A line is no row.
        """
        done = DoneSet()
        for number, record in enumerate(read_rows(self.path), 1):
            fault = _fault(record, classes)
            if fault is not None:
                raise no_result(self.path, number, fault)
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
            flush_ahead(self._descriptor, self._begun, whole - self._begun)
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
                raise no_result(path, number, "it is no JSON object with an image and a frame")
            yield row


def no_result(path: Path, number: int, fault: str) -> UsageError:
    """Return the error that a line of a journal is none that this job has written."""
    return UsageError(
        f"line {number} of {path} is no result of this job ({fault}); was the file edited? "
        "Use --overwrite to start the job anew"
    )


def _open_locked(path: Path) -> int:
    """Return a descriptor of the file that has this name while its lock is held."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        try:
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror}") from None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UsageError(
                    f"{path} is no regular file, and the rows of a job would go there; "
                    "remove it, or give another output"
                )
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another process is writing {path}; wait for it or stop it"
                ) from None
            except OSError:  # a file system without locks
                pass
            # A job that ended meanwhile has given this file another name: that of its output.
            if _is_named(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and "image" in row and "frame" in row else None


def _fault(row: dict[str, Any], classes: int) -> str | None:
    """Return why a row is none of a result, as far as a look at it tells."""
    frame, found = row["frame"], row.get("detections", [])
    if not isinstance(row["image"], str):
        return "its image is no text"
    if frame is not None and (type(frame) is not int or frame < 0):
        return "its frame is no number of a frame"
    if type(row.get("index")) is not int:
        return "its index is no number"
    if not isinstance(row.get("error"), str | None):
        return "its error is no text"
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return "its detections are no list of objects"
    for one in found:
        id = one.get("class_id")
        if type(id) is not int or not 0 <= id < classes:
            return f"a class id is none of the model's {classes} classes"
    return None
