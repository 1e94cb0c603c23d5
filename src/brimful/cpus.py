"""The CPUs that this process may use: how many, and what they are."""

from __future__ import annotations

import functools
import math
import os
from pathlib import Path

BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
"""Flags of CPUs that multiply bfloat16 themselves; on others it is converted and is no faster."""


def available_cpus() -> int:
    """Return the CPUs this process may use: its affinity mask, and its container's quota."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, _quota() or cpus))


def _quota() -> int | None:
    """Return the CPUs of the cgroup's quota, rounded up, or None without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else math.ceil(int(quota) / int(period))


@functools.cache
def cpu_flags() -> frozenset[str]:
    """Return what the kernel says that the CPU can do, such as `avx2`; it may say nothing."""
    return frozenset(_cpuinfo("flags").split())


def cpu_model() -> str:
    """Return the CPU's name as the kernel has it."""
    return _cpuinfo("model name") or "unknown"


def _cpuinfo(key: str) -> str:
    """Return what /proc/cpuinfo says of the first CPU, or ""."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in pairs if name.strip() == key), "")
