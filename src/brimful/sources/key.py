"""Keys: the names that results carry."""

from __future__ import annotations


def printable(key: str) -> str:
    r"""Return a key that can be written as UTF-8.

    File names are bytes on Linux. Python carries bytes that are no UTF-8 as lone surrogates,
    which JSON cannot hold; they become `\udcXX`, so two names never share a key by this.
    """
    if key.isascii():
        return key
    try:
        key.encode()
    except UnicodeEncodeError:
        return key.encode("utf-8", "backslashreplace").decode()
    return key


def join(folder: str, name: str) -> str:
    """Join two parts of a key with a forward slash."""
    return f"{folder}/{name}" if folder else name
