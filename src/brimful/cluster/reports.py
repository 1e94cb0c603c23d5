"""One report of several engine processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from brimful.engine.lifecycle import EngineReport
from brimful.engine.stats import STAGES, StageUse, limiting


def merge_reports(
    reports: Sequence[EngineReport], *, source_s: float, sink_s: float, elapsed_s: float
) -> EngineReport:
    """Merge what the processes and their parent report.

    Every stage of the engines is summed over the processes. The source is the parent's: in a
    process it is the wait for images. The sink is whichever is busier, the parent's writing or the
    processes' encoding.

    Args:
        reports: One a process that is alive.
        source_s: Seconds that the parent spent getting images from the source.
        sink_s: Seconds that the parent's consumer spent on results.
        elapsed_s: Seconds measured.
    """
    elapsed_s = max(elapsed_s, 1e-9)
    own = {
        "source": StageUse("source", source_s, 1, source_s / elapsed_s),
        "sink": StageUse("sink", sink_s, 1, sink_s / elapsed_s),
    }
    stages = []
    for name in STAGES:
        use = _merge(name, [use for report in reports for use in report.stages if use.name == name])
        if name == "source":
            use = own[name]
        elif name == "sink":
            use = max(use, own[name], key=lambda use: use.busy)
        stages.append(use)
    batches: Counter[int] = Counter()
    for report in reports:
        batches.update(report.batches)
    return EngineReport(stages, limiting(stages), dict(sorted(batches.items())))


def _merge(name: str, uses: Sequence[StageUse]) -> StageUse:
    workers = sum(use.workers for use in uses)
    # Each process measures since its own start, so shares are merged and not seconds.
    busy = sum(use.busy * use.workers for use in uses) / max(workers, 1)
    return StageUse(name, sum(use.seconds for use in uses), max(workers, 1), busy)
