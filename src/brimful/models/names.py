"""Class names in a file: one a line, or `names:` of a data set's YAML or of JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from brimful.errors import ModelError, UsageError
from brimful.extras import require
from brimful.models.metadata import parse_metadata

_KEY = re.compile(r"^names\s*:", re.MULTILINE)
"""What a YAML of a data set has, whatever its file is called."""


def read_names(path: Path) -> tuple[str, ...]:
    """Return the class names of a file, in the order of their ids; none of an empty one.

    Args:
        path: A text file in UTF-8: YAML or JSON with `names`, a list or a mapping of ids to names,
            or else one name a line.

    Raises:
        UsageError: YAML or JSON without names.
        MissingExtraError: It is YAML, and pyyaml is not installed.
        OSError: It cannot be read.
        UnicodeDecodeError: It is no UTF-8.
    """
    text = path.read_text(encoding="utf-8-sig")
    kind = path.suffix.lower()
    if kind == ".json":
        return _named(_json(text, path), path)
    if kind in (".yaml", ".yml") or _KEY.search(text):
        return _named(_yaml(text, path), path)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None


def _yaml(text: str, path: Path) -> Any:
    yaml = require("yaml", feature="Reading class names from a YAML file", extra="openvino")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as YAML: {error}") from None


def _named(loaded: Any, path: Path) -> tuple[str, ...]:
    """Return what is under `names`."""
    names = loaded.get("names") if isinstance(loaded, dict) else None
    if names is None:
        keys = ", ".join(f"{key!r:.40}" for key in list(loaded)[:8]) if loaded else "nothing"
        raise UsageError(
            f"{path} has no class names: expected the key 'names' with a list or a mapping of ids "
            f"to names, found {keys if isinstance(loaded, dict) else type(loaded).__name__}"
        )
    try:
        found = parse_metadata({"names": names}, origin=str(path)).names
    except ModelError as error:
        raise UsageError(str(error).replace("metadata key", "key")) from None
    if found is None:
        raise UsageError(f"{path} has no class names: its key 'names' is empty")
    return found
