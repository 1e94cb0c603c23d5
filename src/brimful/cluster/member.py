"""Member: one engine process as the dispatcher sees it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from brimful.cluster.allowance import Allowance
from brimful.cluster.engine_process import EngineProcess
from brimful.cluster.job import Job
from brimful.cluster.messages import AskReport, ResetStats
from brimful.cluster.packing import Packed
from brimful.cluster.work_queue import Chunk
from brimful.engine.engine import EngineReport


@dataclass(eq=False)
class Member:
    """An engine process and what is known of it. The dispatcher's lock guards it.

    Attributes:
        process: The process.
        allowance: How many images it may hold.
        wake: Notified when its sender should look for something to send.
        held: Chunks sent and not answered, by number, with their job and when they went.
        images: Images in them.
        control: Messages to send before any work.
        hungry: Its sender waits for images, and has room for a chunk.
        reason: Why it died, or None while it lives.
        broken: It died of its device.
        report: Its answer to the last question for one.
        threads: Its sender and its receiver.
    """

    process: EngineProcess
    allowance: Allowance
    wake: threading.Condition
    held: dict[int, tuple[Job, Chunk[Packed], float]] = field(default_factory=dict)
    images: int = 0
    control: list[ResetStats | AskReport] = field(default_factory=list)
    hungry: bool = False
    reason: str | None = None
    broken: bool = False
    report: EngineReport | None = None
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether it has not died."""
        return self.reason is None

    def on_trial(self) -> bool:
        """Whether it runs a suspect, and takes nothing else meanwhile."""
        return any(chunk.suspect for _, chunk, _ in self.held.values())
