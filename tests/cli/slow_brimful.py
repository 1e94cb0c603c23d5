"""`brimful`, with a debug runtime that takes its time: MILLISECONDS LINE_EVERY_S ARGUMENTS..."""

from __future__ import annotations

import sys

from brimful.cli import progress
from brimful.cli.main import run
from brimful.runtimes.debug import DebugFaults, DebugRuntime

if __name__ == "__main__":
    faults = DebugFaults(batch_ms=float(sys.argv[1]))
    progress.LINE_EVERY_S = float(sys.argv[2])
    loader = sys.modules["brimful.load"]  # the attribute of that name is the function
    loader.load_runtime = lambda name, model, options: DebugRuntime(options, faults)
    sys.exit(run(sys.argv[3:]))
