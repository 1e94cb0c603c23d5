"""RequestDesk: which process runs which submitted image. The dispatcher's lock guards it.

A request is given to the live process that holds the fewest. Suspects of a crash are run by a
process that holds nothing else: while there are any, one process, the tester, gets nothing new, so
that it comes to hold nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from brimful.cluster.member import Member
from brimful.cluster.messages import Submit
from brimful.cluster.pool_request import PoolRequest
from brimful.cluster.request_queue import RequestQueue
from brimful.cluster.shared_images import SharedImages
from brimful.detections import Detections
from brimful.spec import ModelSpec

TWICE = "its engine process died twice"


class RequestDesk:
    """Submitted images, from their admission to their outcome."""

    def __init__(
        self,
        lock: threading.Lock,
        members: Sequence[Member],
        shared: SharedImages,
        spec: ModelSpec,
        job_suspects: Callable[[], int],
        *,
        queue: int,
        per_process: int,
    ) -> None:
        """Start without requests.

        Args:
            lock: The dispatcher's, which callers hold.
            members: The processes.
            shared: Where images in memory travel.
            spec: What the model is.
            job_suspects: Returns how many images of the job are suspects and wait.
            queue: Requests that may wait for a process.
            per_process: Requests that a process may hold.
        """
        self.room = threading.Condition(lock)
        """Those that submit wait on it."""
        self.tester: Member | None = None
        """The process that gets nothing new, or None."""
        self._members = members
        self._shared = shared
        self._spec = spec
        self._job_suspects = job_suspects
        self._per_process = per_process
        self._queue = RequestQueue(queue)
        self._numbers = 0

    def __len__(self) -> int:
        """Return the number of requests that wait for a process."""
        return len(self._queue)

    def offer(self, request: PoolRequest) -> bool:
        """Take a request in; return False when there is no room for it."""
        replaced = self._queue.offer(request)
        if replaced is None:
            return False
        text = "a newer image of its source replaced it before it was run"
        for older in replaced:
            self._settle(older, older.failed(self._spec, "overload", text))
        self.assign()
        return True

    def assign(self) -> None:
        """Give requests that wait to processes that have room. To be called after any change."""
        self._choose_tester()
        tester, queue = self.tester, self._queue
        if tester is not None and tester.idle:
            self._give(tester, queue.take_suspect)
        while len(queue) > queue.suspects:
            able = [member for member in self._members if self._may_take(member)]
            if not able or not self._give(min(able, key=lambda m: m.load), queue.take):
                break

    def next_for(self, member: Member) -> Submit | None:
        """Return the next request to send to a process, or None."""
        while member.outbox:
            number = member.outbox.popleft()
            request = member.requests[number]
            if not self._drop_unwanted(request):
                return Submit(
                    number,
                    request.item,
                    request.client,
                    request.params,
                    request.priority,
                    request.deadline,
                )
            del member.requests[number]
            self.assign()
        return None

    def leaves_to_jobs(self, member: Member) -> bool:
        """Tell whether a process may take images of jobs."""
        if member.on_trial():
            return False
        if self._job_suspects():
            return not member.requests  # a suspect is run alone
        return member is not self.tester

    def answered(self, member: Member, number: int, result: Detections) -> None:
        """Take a process's answer."""
        request = member.requests.pop(number, None)
        if request is not None:  # otherwise the pool was closed meanwhile
            self._settle(request, result)

    def give_back(self, member: Member) -> None:
        """Let the requests of a process that ended wait again."""
        for number, request in member.requests.items():
            crashed = not member.broken and number not in member.outbox
            if not self._queue.give_back(request, crashed=crashed):
                text = f"{TWICE}: {member.reason}"
                self._settle(request, request.failed(self._spec, "runtime", text))
        member.requests.clear()
        member.outbox.clear()

    def fail(self, error: BaseException) -> None:
        """Fail every request."""
        requests = self._queue.clear()
        for member in self._members:
            requests += member.requests.values()
            member.requests.clear()
            member.outbox.clear()
        for request in requests:
            self._shared.free([request.item])
            request.fail(error)

    def _give(self, member: Member, take: Callable[[], PoolRequest | None]) -> bool:
        """Give a process the next request that is wanted; return whether there was one."""
        while (request := take()) is not None:
            self.room.notify_all()
            if not self._drop_unwanted(request):
                self._numbers += 1
                member.requests[self._numbers] = request
                member.outbox.append(self._numbers)
                member.wake.notify()
                return True
        return False

    def _may_take(self, member: Member) -> bool:
        return (
            member.alive
            and member is not self.tester
            and len(member.requests) < self._per_process
            and not member.on_trial()
        )

    def _choose_tester(self) -> None:
        before = self.tester
        if not self._queue.suspects and not self._job_suspects():
            self.tester = None
            if before is not None:
                before.wake.notify()
        elif before is None or not before.alive:
            alive = [member for member in self._members if member.alive]
            self.tester = min(alive, key=lambda m: sum(m.load), default=None)
            if self.tester is not None:
                self.tester.hungry = False

    def _drop_unwanted(self, request: PoolRequest) -> bool:
        """Drop a request that was cancelled or is too late; return whether it was."""
        if request.future.cancelled():
            text = "it was cancelled"
            self._settle(request, request.failed(self._spec, "cancelled", text))
            return True
        if request.deadline is not None and time.monotonic() >= request.deadline:
            text = "its deadline passed before it was run"
            self._settle(request, request.failed(self._spec, "deadline", text))
            return True
        return False

    def _settle(self, request: PoolRequest, result: Detections) -> None:
        """Give a request its outcome. No caller's code runs here: callbacks are delivered."""
        self._shared.free([request.item])
        request.settle(result)
