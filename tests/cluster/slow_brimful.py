"""`brimful` on a debug runtime that takes BATCH_MS a forward, also in processes it starts.

Those import this file as their main module, so what it changes is changed there too.
"""

from __future__ import annotations

import os
import sys

from brimful.cli.main import run
from brimful.runtimes.debug import DebugFaults, DebugRuntime

FAULTS = DebugFaults(batch_ms=float(os.environ.get("BATCH_MS", "0")))
loader = sys.modules["brimful.load"]  # the attribute of that name is the function
loader.load_runtime = lambda name, model, options: DebugRuntime(options, FAULTS)

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
