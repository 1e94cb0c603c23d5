"""What a model file holds in place of a model, told by its first bytes.

A download that went wrong leaves text under a model's name. What a library says of it is noise.
"""

from __future__ import annotations

from pathlib import Path

from brimful.errors import ModelError

_LOOKED_AT = 1024


def check_content(path: Path) -> None:
    """Refuse a file that is empty, a Git LFS pointer, a web page, or XML that is no network.

    Raises:
        ModelError: It is one of these, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LOOKED_AT)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start:
        raise ModelError(f"{path} is an empty file; expected a model. Copy or download it again")
    if text.startswith(b"version https://git-lfs"):
        raise ModelError(
            f"{path} is a Git LFS pointer and not the model it points to; run git lfs pull in its "
            "repository, or download the file itself"
        )
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        raise ModelError(
            f"{path} is a page of a web site (HTML) and not a model; the download went wrong. "
            "Download the file itself"
        )
    if path.suffix.lower() == ".xml" and not (text.startswith(b"<") and b"<net" in text):
        raise ModelError(
            f"{path} is no OpenVINO network: expected XML with a <net>. Give the .xml of an export"
        )
