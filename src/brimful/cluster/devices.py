"""Devices as users name them, and each process's share of the CPUs."""

from __future__ import annotations

import re

from brimful.errors import UsageError

_EXPECTED = (
    "expected auto, all, cpu, cuda, a GPU's index such as 0 or cuda:0, or a list of them: 0,1,2,3"
)
_INDEX = re.compile(r"(?:cuda:)?([0-9]+)")
MOST_WORKERS = 8
"""Decode threads past which an interpreter's lock costs more than they bring."""


def parse_devices(text: str) -> list[str]:
    """Read `--device`: `auto`, `all`, `cpu`, `cuda`, `cuda:1`, `1`, or a list such as `0,1`.

    A device may be named twice; it gets two engine processes.

    Returns:
        `auto` or `all` alone, or `cpu` or `cuda:INDEX` each, at least one, in the order given.

    Raises:
        UsageError: A part is no device, asks for idle GPUs to be found, or CPU and GPUs are mixed.
    """
    if text.strip().lower() in ("auto", "all"):
        return [text.strip().lower()]
    devices = [_parse_one(part.strip(), text) for part in text.strip("[]() ").split(",")]
    if len({device.partition(":")[0] for device in devices}) > 1:
        raise UsageError(
            f"--device {text!r} mixes CPU and GPUs, whose results differ in the last digits; "
            "name one kind"
        )
    return devices


def _parse_one(part: str, text: str) -> str:
    part = part.lower()
    if part == "cpu":
        return part
    if part == "cuda":
        return "cuda:0"
    index = _INDEX.fullmatch(part)
    if index is not None:
        return f"cuda:{int(index[1])}"
    if part == "-1":
        raise UsageError(
            f"--device {text!r}: brimful does not look for idle GPUs; name those to use, such as "
            "0 or 0,1, or all"
        )
    raise UsageError(f"--device {text!r}: {part!r} is no device; {_EXPECTED}")


def cpu_share(cpus: int, processes: int) -> int:
    """Return how many CPUs each of several processes may take, at least one."""
    return max(1, cpus // processes)


def worker_share(cpus: int, processes: int) -> int:
    """Return the decode threads of each of several engine processes."""
    return min(MOST_WORKERS, cpu_share(cpus, processes))
