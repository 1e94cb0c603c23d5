"""Dispatcher: the threads between a job's images and the engine processes.

One lock guards all state; sending, receiving and copying are done outside of it. Threads: the
feeder's (it belongs to the job), and a sender and a receiver per process, so that a process that
stalls holds up its own pipe and nothing else. Senders pull: each takes a chunk when its process has
room for one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from brimful.cluster.allowance import Allowance
from brimful.cluster.arena import Arena, Block
from brimful.cluster.engine_process import EngineProcess
from brimful.cluster.job import Answer, Job
from brimful.cluster.member import Member
from brimful.cluster.messages import AskReport, Died, Report, ResetStats, Results, Work
from brimful.cluster.packing import Packed, convert, in_memory, pack, size_of
from brimful.cluster.work_queue import Chunk
from brimful.engine.engine import EngineReport
from brimful.errors import BrimfulError, DeviceFailedError, EngineStoppedError, ImageError
from brimful.sources.image import SourceImage

_log = logging.getLogger("brimful")

LINGER_S = 0.002
"""Seconds that images wait for a chunk to fill up."""


class Dispatcher:
    """Hands a job's images to processes and puts their answers in order."""

    def __init__(
        self,
        processes: Sequence[EngineProcess],
        arena: Arena,
        new_allowance: Callable[[], Allowance],
    ) -> None:
        """Start the threads.

        Args:
            processes: Ready ones.
            arena: Where images in memory travel.
            new_allowance: Makes the allowance of one process.
        """
        self._arena = arena
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._ready = threading.Condition(self._lock)
        self._reported = threading.Condition(self._lock)
        self._job: Job | None = None
        self._chunks = 0
        self._closed = False
        self._members = [
            Member(process, new_allowance(), threading.Condition(self._lock))
            for process in processes
        ]
        for member in self._members:
            for name, loop in (("send", self._send_loop), ("receive", self._receive_loop)):
                thread = threading.Thread(
                    target=loop,
                    args=(member,),
                    name=f"brimful-{name}-{member.process.device}",
                    daemon=True,
                )
                member.threads.append(thread)
                thread.start()

    @property
    def deaths(self) -> list[str]:
        """Which processes died, and why."""
        with self._lock:
            return [f"{m.process.device}: {m.reason}" for m in self._members if m.reason]

    # The job's side ---------------------------------------------------------------------------

    def begin(self, job: Job) -> None:
        """Take a job on.

        Raises:
            EngineStoppedError: Another job is running, or no process is left.
        """
        with self._lock:
            self._check_open()
            if self._job is not None:
                raise EngineStoppedError("an engine pool runs one source at a time")
            if not any(member.alive for member in self._members):
                raise self._all_dead()
            self._job = job

    def feed(self, job: Job, images: Sequence[SourceImage]) -> bool:
        """Add images, waiting for room; return False when no more are wanted."""
        packed: list[Packed] = []
        for image in images:
            convert(image)
            if in_memory(image.payload):
                # What came before goes first: it may hold the memory that this one waits for.
                if not self._feed_packed(job, packed):
                    return False
                packed = [self._pack_in_memory(job, image, image.payload)]
            else:
                packed.append(pack(image, None))
        return self._feed_packed(job, packed)

    def end(self, job: Job, error: BaseException | None = None) -> None:
        """Say that no more images come, and why, if that is not how it should be."""
        with self._lock:
            job.queue.end()
            job.ending = error
            self._wake_all()
            self._ready.notify_all()

    def answer(self, job: Job) -> Answer | None:
        """Wait for the next answer in order; None when there are no more.

        Raises:
            EngineStoppedError: The pool was closed, or no process is left.
            BaseException: What the source raised.
        """
        with self._lock:
            while True:
                answer = job.queue.pop()
                if answer is not None:
                    self._room.notify()
                    return answer
                if job.error is not None:
                    raise job.error
                if job.queue.finished:
                    if job.ending is not None:
                        raise job.ending
                    return None
                self._ready.wait()

    def finish(self, job: Job) -> None:
        """Forget a job. What processes still hold of it is dropped when it comes back."""
        with self._lock:
            job.closed = True
            self._free(job.queue.clear())
            if self._job is job:
                self._job = None
            self._room.notify_all()

    def _pack_in_memory(
        self, job: Job, image: SourceImage, payload: NDArray[Any] | bytes
    ) -> Packed:
        """Write an image into the arena, waiting for room."""
        size = size_of(payload)
        if size > self._arena.size:
            image.payload = ImageError(
                f"{size:,} bytes are more than the {self._arena.size:,} that engine processes "
                "share for images in memory"
            )
            return pack(image, None)
        block: Block | None = None
        with self._lock:
            while _wanted(job) and (block := self._arena.allocate(payload)) is None:
                self._room.wait()
        if block is not None:
            self._arena.write(block, payload)
        return pack(image, block)

    def _feed_packed(self, job: Job, packed: Sequence[Packed]) -> bool:
        with self._lock:
            while True:
                if not _wanted(job):
                    self._free(packed)
                    return False
                if not packed:
                    return True
                room = job.queue.room()
                if room <= 0:
                    self._room.wait()
                    continue
                if job.queue.feed(packed[:room], time.monotonic()):
                    self._wake_hungry()
                packed = packed[room:]

    # Control ----------------------------------------------------------------------------------

    def reset_stats(self) -> None:
        """Let every process start measuring anew."""
        self._control(ResetStats())

    def reports(self, timeout: float) -> list[EngineReport]:
        """Ask every process for its report; one that does not answer in time is left out."""
        with self._lock:
            for member in self._members:
                member.report = None
        self._control(AskReport())
        with self._lock:
            self._reported.wait_for(
                lambda: all(m.report is not None for m in self._members if m.alive), timeout
            )
            return [member.report for member in self._members if member.report is not None]

    def close(self, timeout: float) -> None:
        """Stop; what is in flight fails. Processes that do not leave in time are killed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._job is not None:
                self._fail(self._job, EngineStoppedError("the engine pool was closed"))
            self._wake_all()
        deadline = time.monotonic() + timeout
        for member in self._members:
            if not member.process.await_end(max(0.0, deadline - time.monotonic())):
                member.process.kill()
        for member in self._members:
            for thread in member.threads:
                thread.join()
            member.process.close()

    # Processes --------------------------------------------------------------------------------

    def _send_loop(self, member: Member) -> None:
        process = member.process
        try:
            while (message := self._next_message(member)) is not None:
                process.send(message)
        except OSError:
            return  # it has ended: the receiver finds out why
        process.dismiss()

    def _next_message(self, member: Member) -> Work | ResetStats | AskReport | None:
        """Wait for something to send; None when there will be nothing."""
        with self._lock:
            while member.alive and not self._closed:
                if member.control:
                    return member.control.pop(0)
                now = time.monotonic()
                job, wait = self._job, None
                room = member.allowance.images - member.images
                if job is not None and job.error is None and room > 0:
                    queue = job.queue
                    held = [chunk for _, chunk, _ in member.held.values()]
                    chunk = queue.take(now, room=room, held=held)
                    if chunk is not None:
                        if queue.due_at() is not None:
                            self._wake_hungry(but=member)
                        return self._hand_out(member, job, chunk, now)
                    due = queue.due_at()
                    wait = None if due is None or due < now else due - now
                member.hungry = job is None or (room >= job.queue.chunk and not member.on_trial())
                member.wake.wait(wait)
                member.hungry = False
            return None

    def _hand_out(self, member: Member, job: Job, chunk: Chunk[Packed], now: float) -> Work:
        self._chunks += 1
        member.held[self._chunks] = (job, chunk, now)
        member.images += len(chunk)
        return Work(self._chunks, job.encoded, chunk.items)

    def _receive_loop(self, member: Member) -> None:
        process = member.process
        reason, device = None, False
        try:
            while True:
                message, body = process.receive()
                if isinstance(message, Results):
                    self._settle(member, message, body)
                elif isinstance(message, Report):
                    with self._lock:
                        member.report = message.report
                        self._reported.notify_all()
                elif isinstance(message, Died):
                    reason, device = message.reason, message.device
        except (EOFError, OSError):
            pass
        ending = "" if self._closed and reason is None else process.ending()
        self._died(member, reason or ending, device=device)

    def _settle(self, member: Member, results: Results, body: bytes) -> None:
        with self._lock:
            job, chunk, sent = member.held.pop(results.chunk)
            member.images -= len(chunk)
            member.allowance.observe(len(chunk), time.monotonic() - sent)
            member.wake.notify()
            self._free(chunk.items)
            if not job.closed and job.queue.settle(chunk, (results, body)):
                self._ready.notify()

    def _died(self, member: Member, reason: str, *, device: bool) -> None:
        """Hand what a process held to the others; fail the job when there are none."""
        with self._lock:
            member.reason = reason or "it left"
            member.broken = device
            member.wake.notify_all()
            self._reported.notify_all()
            held = list(member.held.values())
            member.held.clear()
            for job, chunk, _ in held:
                if job.closed or not job.queue.give_back(chunk, device=device):
                    self._free(chunk.items)
                    if not job.closed:
                        job.queue.settle(chunk, job.lost(chunk.items[0], member.reason))
            left = sum(other.alive for other in self._members)
            if not left and self._job is not None:
                self._fail(self._job, self._all_dead())
            self._wake_all()
            self._ready.notify_all()
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

    def _all_dead(self) -> BrimfulError:
        reasons = "; ".join(f"{m.process.device}: {m.reason}" for m in self._members)
        if all(member.broken for member in self._members):
            return DeviceFailedError(f"every device fails: {reasons}")
        return EngineStoppedError(f"every engine process died: {reasons}")

    def _fail(self, job: Job, error: BaseException) -> None:
        if job.error is None:
            job.error = error
        self._ready.notify_all()
        self._room.notify_all()

    def _free(self, items: Sequence[Packed]) -> None:
        """Give back the memory of images that no process reads any more."""
        freed = False
        for item in items:
            if isinstance(item[4], Block):
                self._arena.free(item[4])
                freed = True
        if freed:
            self._room.notify_all()

    def _wake_hungry(self, but: Member | None = None) -> None:
        """Wake one sender that has room and waits for images."""
        for member in self._members:
            if member.hungry and member is not but:
                member.hungry = False
                member.wake.notify()
                return

    def _wake_all(self) -> None:
        for member in self._members:
            member.wake.notify_all()

    def _control(self, message: ResetStats | AskReport) -> None:
        with self._lock:
            for member in self._members:
                if member.alive:
                    member.control.append(message)
                    member.wake.notify()


def _wanted(job: Job) -> bool:
    return not job.closed and job.error is None
