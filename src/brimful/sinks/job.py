"""The job file: what a journal was written with, so that a resumed job is the same job."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from brimful.errors import UsageError
from brimful.sinks.atomic import whole_file

_VERSION = 1


def write_job(path: Path, job: Mapping[str, Any]) -> None:
    """Write the description of a job, whole or not at all."""
    with whole_file(path) as file:
        file.write(
            orjson.dumps({"version": _VERSION, "job": _plain(job)}, option=orjson.OPT_INDENT_2)
        )


def read_job(path: Path) -> dict[str, Any]:
    """Return what an interrupted job said of itself; nothing where it cannot be read."""
    try:
        job = orjson.loads(path.read_bytes())["job"]["job"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return {}  # `check_job` says what is wrong with it
    return job if isinstance(job, dict) else {}


def check_job(path: Path, job: Mapping[str, Any]) -> None:
    """Compare a job with the one that a journal was written with.

    Raises:
        UsageError: The file is missing or damaged, or the jobs differ; the message lists how.
    """
    advice = "use --overwrite to start the job anew"
    try:
        content = orjson.loads(path.read_bytes())
        version, then = content["version"], content["job"]
    except FileNotFoundError:
        raise UsageError(f"{path} is missing, so the job cannot be resumed; {advice}") from None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read, so the job cannot be resumed: {error.strerror}; {advice}"
        ) from None
    except (orjson.JSONDecodeError, KeyError, TypeError):
        content = version = then = None
    if not isinstance(content, dict) or not isinstance(then, dict):
        raise UsageError(f"{path} is damaged, so the job cannot be resumed; {advice}") from None
    if version != _VERSION:
        raise UsageError(f"{path} is of version {_short(version)}, expected {_VERSION}; {advice}")
    differences = _differences(then, _plain(job))
    if differences:
        raise UsageError(
            "this is not the job that was interrupted: "
            + "; ".join(differences)
            + f". Give the same options, or {advice}"
        )


def _plain(job: Mapping[str, Any]) -> Any:
    """Return the job as it reads back from JSON."""
    return orjson.loads(orjson.dumps(dict(job), default=str, option=orjson.OPT_NON_STR_KEYS))


def _differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in sorted(then.keys() | now.keys()):
        old, new = then.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} was {_short(old)} and is now {_short(new)}")
    return found


def _short(value: Any) -> str:
    text = orjson.dumps(value).decode()
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"
