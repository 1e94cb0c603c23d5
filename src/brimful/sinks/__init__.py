"""Where detections go, and the ledger that makes a job resumable."""
