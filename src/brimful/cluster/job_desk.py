"""JobDesk: the images of the running job, on their way to the processes and back in order.

Processes pull: each takes a chunk when it has room for one. The dispatcher's lock guards it; the
methods of the job's side take it themselves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from brimful.cluster.job import Answer, Job
from brimful.cluster.member import Member
from brimful.cluster.messages import Results, Work
from brimful.cluster.packing import Packed
from brimful.cluster.shared_images import SharedImages
from brimful.errors import EngineStoppedError


class JobDesk:
    """The job that runs, if one does."""

    def __init__(
        self, lock: threading.Lock, members: Sequence[Member], shared: SharedImages
    ) -> None:
        """Start without a job.

        Args:
            lock: The dispatcher's.
            members: The processes.
            shared: Where images in memory travel.
        """
        self.room = threading.Condition(lock)
        """The feeder waits on it."""
        self.ready = threading.Condition(lock)
        """The consumer waits on it."""
        self._lock = lock
        self._members = members
        self._shared = shared
        self._job: Job | None = None
        self._chunks = 0

    @property
    def suspects(self) -> int:
        """Images that were with a process that crashed, and wait to be run alone."""
        job = self._job
        return 0 if job is None or job.error is not None else job.queue.suspects

    @property
    def waits(self) -> bool:
        """Whether images wait for a process."""
        job = self._job
        return job is not None and job.error is None and job.queue.pending + self.suspects > 0

    # The job's side: these take the lock ------------------------------------------------------

    def begin(self, job: Job, check_open: Callable[[], None]) -> None:
        """Take a job on.

        Args:
            job: The job.
            check_open: Raises where nothing is taken any more.

        Raises:
            EngineStoppedError: Another job is running.
        """
        with self._lock:
            check_open()
            if self._job is not None:
                raise EngineStoppedError("an engine pool runs one source at a time")
            self._job = job

    def add(self, job: Job, packed: Sequence[Packed]) -> bool:
        """Add images, waiting for room; return False when no more are wanted."""
        with self._lock:
            while True:
                if not job.wanted:
                    self._shared.free(packed)
                    return False
                if not packed:
                    return True
                room = job.queue.room()
                if room <= 0:
                    self.room.wait()
                    continue
                if job.queue.feed(packed[:room], time.monotonic()):
                    self._wake_hungry()
                packed = packed[room:]

    def end(self, job: Job, error: BaseException | None = None) -> None:
        """Say that no more images come, and why, if that is not how it should be."""
        with self._lock:
            self._end(job, error)

    def answer(self, job: Job) -> Answer | None:
        """Wait for the next answer in order; None when there are no more.

        Raises:
            EngineStoppedError: The pool was closed or drained, or no process is left.
            DeviceFailedError: No process is left, and the last one's device is broken.
            BaseException: What the source raised.
        """
        with self._lock:
            while True:
                answer = job.queue.pop()
                if answer is not None:
                    self.room.notify()
                    return answer
                if job.error is not None:
                    raise job.error
                if job.queue.finished:
                    if job.ending is not None:
                        raise job.ending
                    return None
                self.ready.wait()

    def finish(self, job: Job) -> None:
        """Forget a job. What processes still hold of it is dropped when it comes back."""
        with self._lock:
            job.closed = True
            self._shared.free(job.queue.clear())
            if self._job is job:
                self._job = None
            self.room.notify_all()
        self._shared.wake()

    # The processes' side: with the lock held --------------------------------------------------

    def next_for(
        self, member: Member, now: float, *, able: bool
    ) -> tuple[Work | None, float | None]:
        """Return the next chunk to send to a process.

        Args:
            member: The process.
            now: The time, in seconds.
            able: It may take images of jobs.

        Returns:
            The chunk or None, and the seconds after which to ask again, None to wait for a wake-up.
        """
        job, wait = self._job, None
        room = member.allowance.images - member.images
        if job is not None and job.error is None:
            queue = job.queue
            if able and room > 0:
                held = [chunk for _, chunk, _ in member.held.values()]
                chunk = queue.take(now, room=room, held=held)
                if chunk is not None:
                    self._chunks += 1
                    member.held[self._chunks] = (job, chunk, now)
                    member.images += len(chunk)
                    if queue.due_at() is not None:
                        self._wake_hungry(but=member)
                    return Work(self._chunks, job.encoded, chunk.items, job.params), None
                due = queue.due_at()
                wait = None if due is None or due < now else due - now
            elif not able and queue.due_at() is not None:
                self._wake_hungry(but=member)  # it may have been woken for a chunk
        member.hungry = job is None or (able and room >= job.queue.chunk)
        return None, wait

    def settle(self, member: Member, results: Results, body: bytes) -> None:
        """Take the results of a chunk."""
        job, chunk, sent = member.held.pop(results.chunk)
        member.images -= len(chunk)
        member.allowance.observe(len(chunk), time.monotonic() - sent)
        self._shared.free(chunk.items)
        if not job.closed and job.queue.settle(chunk, (results, body)):
            self.ready.notify()

    def give_back(self, member: Member) -> None:
        """Let the images of a process that ended wait again."""
        assert member.reason is not None
        for job, chunk, _ in member.held.values():
            if job.closed or not job.queue.give_back(chunk, device=member.broken):
                self._shared.free(chunk.items)
                if not job.closed:
                    job.queue.settle(chunk, job.lost(chunk.items[0], member.reason))
        member.held.clear()

    def drain(self, error: BaseException) -> None:
        """Take no more images; the job ends with `error` once it has all results."""
        if self._job is not None and not self._job.queue.ended:
            self._end(self._job, error)

    def fail(self, error: BaseException) -> None:
        """Fail the job, once it has the results that are ready."""
        if self._job is not None and self._job.error is None:
            self._job.error = error

    def wake_all(self) -> None:
        """Let everybody look again."""
        for member in self._members:
            member.wake.notify_all()
        self.room.notify_all()
        self.ready.notify_all()

    def _end(self, job: Job, error: BaseException | None) -> None:
        job.queue.end()
        if job.ending is None:
            job.ending = error
        self.wake_all()

    def _wake_hungry(self, but: Member | None = None) -> None:
        """Wake one sender that has room and waits for images."""
        for member in self._members:
            if member.hungry and member is not but:
                member.hungry = False
                member.wake.notify()
                return
