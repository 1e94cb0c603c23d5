"""Import of optional libraries, with the install line in the error when one is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from types import ModuleType

from brimful.errors import MissingExtraError


def require(module: str, *, feature: str, extra: str) -> ModuleType:
    """Import `module`, or raise MissingExtraError naming the extra that brings it.

    Only absence is translated: an installed library that fails to import raises its own error.
    """
    if not installed(module):
        raise MissingExtraError(feature, extra, module=module)
    return importlib.import_module(module)


def installed(module: str) -> bool:
    """Tell whether `module` could be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package of a dotted name is absent
        return False


def installed_version(*distributions: str) -> str | None:
    """Return the version of the first of these distributions that is installed, else None."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
