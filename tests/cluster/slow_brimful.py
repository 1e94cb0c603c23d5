"""`brimful` on a debug runtime that takes BATCH_MS a forward, also in processes it starts.

With WORKING its device fails every forward after so many.

Those import this file as their main module, so what it changes is changed there too.
"""

from __future__ import annotations

import os
import sys

from brimful.cli.main import run
from brimful.errors import RuntimeFailedError
from brimful.runtimes.debug import DebugFaults, DebugRuntime

FAULTS = DebugFaults(batch_ms=float(os.environ.get("BATCH_MS", "0")))
WORKING = int(os.environ.get("WORKING", sys.maxsize))


class BreakingRuntime(DebugRuntime):
    """A debug runtime whose device breaks."""

    def _forward(self, slot, count, params):
        outputs = super()._forward(slot, count, params)
        if len(self.batches) > WORKING:
            raise RuntimeFailedError("the device is lost")
        return outputs


loader = sys.modules["brimful.load"]  # the attribute of that name is the function
loader.load_runtime = lambda name, model, options: BreakingRuntime(options, FAULTS)

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
