"""Member: one engine process as the dispatcher sees it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from brimful.cluster.allowance import Allowance
from brimful.cluster.engine_process import EngineProcess
from brimful.cluster.job import Job
from brimful.cluster.messages import Control, Died, FromEngine, FromParent, Reply
from brimful.cluster.packing import Packed
from brimful.cluster.pool_request import PoolRequest
from brimful.cluster.work_queue import Chunk

NextMessage = Callable[["Member"], "FromParent | None"]
"""Waits for something to send to a member; None when there will be nothing."""

Received = Callable[["Member", FromEngine, bytes], object]
"""Told what came from a member, and the body that follows Results."""

Ended = Callable[["Member", "Died | None"], object]
"""Told that nothing more comes from a member, and its last word if it had one."""


@dataclass(eq=False)
class Member:
    """An engine process and what is known of it. The dispatcher's lock guards it.

    Attributes:
        process: The process.
        allowance: How many images of jobs it may hold.
        wake: Notified when its sender should look for something to send.
        held: Chunks sent and not answered, by number, with their job and when they went.
        images: Images in them.
        requests: Submitted images that are its own and not answered, by number.
        outbox: Numbers of those that were not sent yet.
        control: Messages to send before any work.
        hungry: Its sender waits for images of a job, and has room for a chunk.
        reason: Why it died, or None while it lives.
        broken: It died of its device.
        replies: Its last answer of each kind since it was asked.
        threads: Its sender and its receiver.
    """

    process: EngineProcess
    allowance: Allowance
    wake: threading.Condition
    held: dict[int, tuple[Job, Chunk[Packed], float]] = field(default_factory=dict)
    images: int = 0
    requests: dict[int, PoolRequest] = field(default_factory=dict)
    outbox: deque[int] = field(default_factory=deque)
    control: list[Control] = field(default_factory=list)
    hungry: bool = False
    reason: str | None = None
    broken: bool = False
    replies: dict[type[Any], Reply] = field(default_factory=dict)
    threads: list[threading.Thread] = field(default_factory=list)

    @property
    def alive(self) -> bool:
        """Whether it has not died."""
        return self.reason is None

    @property
    def idle(self) -> bool:
        """Whether it holds nothing."""
        return not self.held and not self.requests

    @property
    def load(self) -> tuple[int, int]:
        """How much it holds: submitted images, then images of jobs."""
        return len(self.requests), self.images

    def on_trial(self) -> bool:
        """Whether it runs a suspect, and takes nothing else meanwhile."""
        return any(chunk.suspect for _, chunk, _ in self.held.values()) or any(
            request.suspect for request in self.requests.values()
        )

    def start(self, next_message: NextMessage, received: Received, ended: Ended) -> None:
        """Start its two threads: a process that stalls holds up its own pipe and nothing else."""

        def send() -> None:
            try:
                while (message := next_message(self)) is not None:
                    self.process.send(message)
            except OSError:
                return  # it has ended: the receiver finds out why
            self.process.dismiss()

        def receive() -> None:
            last: Died | None = None
            try:
                while True:
                    message, body = self.process.receive()
                    if isinstance(message, Died):
                        last = message
                    else:
                        received(self, message, body)
            except (EOFError, OSError):
                pass
            ended(self, last)

        for name, loop in (("send", send), ("receive", receive)):
            thread = threading.Thread(
                target=loop, name=f"brimful-{name}-{self.process.device}", daemon=True
            )
            self.threads.append(thread)
            thread.start()
