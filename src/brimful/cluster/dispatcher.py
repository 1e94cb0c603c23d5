"""Dispatcher: the engine processes, what they are given, and what becomes of their answers.

One lock guards all state; sending, receiving and copying are done outside of it. Threads: the
feeder's and the consumer's (they belong to the job), those that submit, and a sender and a receiver
per process, so that a process that stalls holds up its own pipe and nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from brimful.cluster.allowance import Allowance
from brimful.cluster.engine_process import EngineProcess
from brimful.cluster.job import Job
from brimful.cluster.job_desk import JobDesk
from brimful.cluster.member import Member
from brimful.cluster.messages import (
    Answered,
    Control,
    Died,
    FromEngine,
    FromParent,
    Reply,
    Report,
    Results,
    WarmedUp,
)
from brimful.cluster.pool_request import PoolRequest
from brimful.cluster.request_desk import RequestDesk
from brimful.cluster.shared_images import SharedImages
from brimful.errors import BrimfulError, DeviceFailedError, EngineStoppedError
from brimful.spec import ModelSpec

_log = logging.getLogger("brimful")

_DRAINS = "the engine pool finishes what it has and takes no more"

R = TypeVar("R", bound=Reply)


class Dispatcher:
    """Hands images to processes, and their answers to whoever waits for them."""

    def __init__(
        self,
        processes: Sequence[EngineProcess],
        shared: SharedImages,
        spec: ModelSpec,
        new_allowance: Callable[[], Allowance],
        *,
        queue: int,
        per_process: int,
    ) -> None:
        """Start the threads.

        Args:
            processes: Ready ones.
            shared: Where images in memory travel.
            spec: What the model is.
            new_allowance: Makes the allowance of one process.
            queue: Submitted images that may wait for a process.
            per_process: Submitted images that a process may hold.
        """
        self._shared = shared
        self._lock = threading.Lock()
        self._replied = threading.Condition(self._lock)
        self._quiet = threading.Condition(self._lock)
        self._draining = False
        self._closed = False
        self._gone: BrimfulError | None = None
        self._members = [
            Member(process, new_allowance(), threading.Condition(self._lock))
            for process in processes
        ]
        self.jobs = JobDesk(self._lock, self._members, shared)
        self._requests = RequestDesk(
            self._lock,
            self._members,
            shared,
            spec,
            lambda: self.jobs.suspects,
            queue=queue,
            per_process=per_process,
        )
        for member in self._members:
            member.start(self._next_message, self._received, self._died)

    @property
    def deaths(self) -> list[str]:
        """Which processes died, and why."""
        with self._lock:
            return [f"{m.process.device}: {m.reason}" for m in self._members if m.reason]

    # What comes in ----------------------------------------------------------------------------

    def begin(self, job: Job) -> None:
        """Take a job on; the rest of it is done with `jobs`.

        Raises:
            EngineStoppedError: Another job is running, or nothing more is taken.
        """
        self.jobs.begin(job, self._check_open)

    def check_open(self) -> None:
        """Make sure that images are taken.

        Raises:
            EngineStoppedError: The pool was closed or drained, or no process is left.
            DeviceFailedError: No process is left, and the last one's device is broken.
        """
        with self._lock:
            self._check_open()

    def is_open(self) -> bool:
        """Tell whether images are taken. It does not take the lock."""
        return not (self._closed or self._draining or self._gone)

    def submit(self, request: PoolRequest, *, wait: bool) -> bool:
        """Take a request in; return False when there is no room for it.

        Args:
            request: The request.
            wait: Wait for room, no longer than until its deadline.

        Raises:
            EngineStoppedError: As `check_open`.
        """
        requests = self._requests
        with self._lock:
            while True:
                self._check_open()
                if requests.offer(request):
                    return True
                left = None if request.deadline is None else request.deadline - time.monotonic()
                if not wait or (left is not None and left <= 0):
                    return False
                requests.room.wait(left)

    def waiting(self) -> int:
        """Return how many requests wait for a process."""
        with self._lock:
            return len(self._requests)

    # Control ----------------------------------------------------------------------------------

    def tell(self, message: Control) -> None:
        """Send every live process a message."""
        with self._lock:
            for member in self._members:
                if member.alive:
                    member.control.append(message)
                    member.wake.notify()

    def ask(self, question: Control, kind: type[R], timeout: float | None) -> list[R]:
        """Ask every process; one that dies or does not reply in time is left out.

        Args:
            question: What to send.
            kind: The reply to it.
            timeout: Seconds to wait at most; None waits on.
        """
        with self._lock:
            for member in self._members:
                member.replies.pop(kind, None)
        self.tell(question)
        with self._lock:
            self._replied.wait_for(
                lambda: self._closed or all(kind in m.replies for m in self._members if m.alive),
                timeout,
            )
            replies = [member.replies.get(kind) for member in self._members]
            return [reply for reply in replies if isinstance(reply, kind)]

    def drain(self, timeout: float | None) -> bool:
        """Take nothing more and wait until what was taken is done; return whether it is.

        Args:
            timeout: Seconds to wait at most; None waits on.
        """
        with self._lock:
            self._draining = True
            self.jobs.drain(EngineStoppedError(_DRAINS))
            self._wake_all()
            return self._quiet.wait_for(self._is_quiet, timeout)

    def close(self, timeout: float) -> None:
        """Stop; what is in flight fails. Processes that do not leave in time are killed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._fail(EngineStoppedError("the engine pool was closed"))
        deadline = time.monotonic() + timeout
        for member in self._members:
            if not member.process.await_end(max(0.0, deadline - time.monotonic())):
                member.process.kill()
        for member in self._members:
            for thread in member.threads:
                thread.join()
            member.process.close()

    # Processes --------------------------------------------------------------------------------

    def _next_message(self, member: Member) -> FromParent | None:
        """Wait for something to send; None when there will be nothing."""
        with self._lock:
            while member.alive and not self._closed:
                if member.control:
                    return member.control.pop(0)
                if (request := self._requests.next_for(member)) is not None:
                    return request
                able = self._requests.leaves_to_jobs(member)
                work, wait = self.jobs.next_for(member, time.monotonic(), able=able)
                if work is not None:
                    self._requests.assign()  # it was the last suspect, perhaps
                    return work
                member.wake.wait(wait)
                member.hungry = False
            return None

    def _received(self, member: Member, message: FromEngine, body: bytes) -> None:
        with self._lock:
            if isinstance(message, Results):
                self.jobs.settle(member, message, body)
            elif isinstance(message, Answered):
                self._requests.answered(member, message.number, message.result)
            elif isinstance(message, Report | WarmedUp):
                member.replies[type(message)] = message
                self._replied.notify_all()
            self._requests.assign()
            member.wake.notify()
            self._quiet.notify_all()

    def _died(self, member: Member, last: Died | None) -> None:
        """Hand what a process held to the others; fail everything when there are none."""
        if last is not None:
            reason = last.reason
        else:
            reason = "it left" if self._closed else member.process.ending()
        with self._lock:
            member.reason = reason
            member.broken = last is not None and last.device
            self.jobs.give_back(member)
            self._requests.give_back(member)
            left = sum(other.alive for other in self._members)
            if not left:
                self._gone = self._all_dead(member)
                self._fail(self._gone)
            self._requests.assign()
            self._wake_all()
            expected = self._closed
        if left and not expected:
            _log.warning(
                "the engine process of %s died: %s; its images go to the other %d",
                member.process.device,
                reason,
                left,
            )

    # Under the lock ---------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise EngineStoppedError("the engine pool was closed")
        if self._gone is not None:
            raise type(self._gone)(str(self._gone)) from self._gone
        if self._draining:
            raise EngineStoppedError(_DRAINS)

    def _all_dead(self, last: Member) -> BrimfulError:
        reasons = "; ".join(f"{m.process.device}: {m.reason}" for m in self._members)
        if all(member.broken for member in self._members):
            return DeviceFailedError(f"every device fails: {reasons}")
        kind = DeviceFailedError if last.broken else EngineStoppedError
        return kind(f"every engine process died: {reasons}")

    def _fail(self, error: BaseException) -> None:
        """Fail the job and every request."""
        self.jobs.fail(error)
        self._requests.fail(error)
        self._wake_all()

    def _is_quiet(self) -> bool:
        if self.jobs.waits or len(self._requests):
            return False
        return all(member.idle for member in self._members)

    def _wake_all(self) -> None:
        self.jobs.wake_all()
        for condition in (self._requests.room, self._replied, self._quiet):
            condition.notify_all()
        self._shared.wake()
