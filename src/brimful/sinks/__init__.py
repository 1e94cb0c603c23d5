"""Where detections go, and the ledger that makes a job resumable."""

from brimful.sinks.done import DoneSet
from brimful.sinks.open_sink import open_sink
from brimful.sinks.sink import Sink

__all__ = ["DoneSet", "Sink", "open_sink"]
