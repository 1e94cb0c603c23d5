"""Who runs what: both desks without a process or a thread, under every order of events."""

from __future__ import annotations

import threading
import time
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from brimful.cluster.allowance import Allowance
from brimful.cluster.arena import Arena
from brimful.cluster.job import Job
from brimful.cluster.job_desk import JobDesk
from brimful.cluster.member import Member
from brimful.cluster.messages import Results
from brimful.cluster.packing import pack
from brimful.cluster.pool_request import PoolRequest
from brimful.cluster.request_desk import RequestDesk
from brimful.cluster.shared_images import SharedImages
from brimful.cluster.work_queue import WorkQueue
from brimful.detections import Detections
from brimful.engine.delivery import Delivery, DetectionsFuture
from brimful.sources.image import SourceImage
from brimful.spec import ModelSpec

SPEC = ModelSpec(task="detect", head="nms_free", names=("a",))
FOUND = Detections(image="k", index=0, width=1, height=1, task="detect", names=("a",))
CHUNK, PER_PROCESS, PROCESSES = 4, 3, 3


class Floor:
    """Both desks, and processes that are played; while `replaces`, one comes for each that ends."""

    def __init__(self, deadly=frozenset()) -> None:
        self.lock = threading.Lock()
        self.shared = SharedImages(Arena(4096))
        self.members: list[Member] = []
        self.jobs = JobDesk(self.lock, self.members, self.shared)
        self.requests = RequestDesk(
            self.lock,
            self.members,
            self.shared,
            SPEC,
            lambda: self.jobs.suspects,
            queue=1000,
            per_process=PER_PROCESS,
        )
        for _ in range(PROCESSES):
            self.join()
        self.deadly = deadly
        self.replaces = True
        self.delivery = Delivery()
        self.job = Job(False, self.lost, WorkQueue(window=10_000, chunk=CHUNK, linger_s=0))
        self.jobs.begin(self.job, lambda: None)
        self.fed = 0
        self.rows: list[str] = []
        self.convicted: list[str] = []
        self.submitted: dict[str, PoolRequest] = {}
        self.crashes: Counter[str] = Counter()

    def join(self) -> None:
        allowance = Allowance(least=16, most=16, target_s=1e9)
        self.members.append(Member(None, allowance, threading.Condition(self.lock)))

    def alive(self) -> list[Member]:
        return [member for member in self.members if member.alive]

    def lost(self, item, reason):
        self.convicted.append(item[1])
        return [item[1]], b""

    def feed(self, count: int) -> None:
        images = [
            SourceImage(index=i, key=f"row{i}", payload="x.png")
            for i in range(self.fed, self.fed + count)
        ]
        self.fed += count
        assert self.jobs.add(self.job, [pack(image, None) for image in images])

    def submit(self, **options) -> PoolRequest:
        key = f"request{len(self.submitted)}"
        item = pack(SourceImage(index=0, key=key, payload="x.png"), None)
        request = PoolRequest(DetectionsFuture(self.delivery), item, len(self.submitted) % 3)
        for name, value in options.items():
            setattr(request, name, value)
        self.submitted[key] = request
        with self.lock:
            assert self.requests.offer(request)
        return request

    def send(self, member: Member) -> bool:
        """Do what a sender does, but for the waiting."""
        with self.lock:
            if self.requests.next_for(member) is not None:
                return True
            able = self.requests.leaves_to_jobs(member)
            work, _ = self.jobs.next_for(member, time.monotonic(), able=able)
            if work is not None:
                self.requests.assign()
            return work is not None

    def sent(self, member: Member) -> list[str]:
        """Return the keys of what a process was sent and has not answered."""
        keys = [r.item[1] for n, r in member.requests.items() if n not in member.outbox]
        return keys + [item[1] for _, chunk, _ in member.held.values() for item in chunk.items]

    def answer(self, member: Member, number: int) -> bool:
        """Answer something, or crash over a deadly image."""
        if self.deadly & set(self.sent(member)):
            self.end(member, broken=False)
            return True
        numbers = [n for n in member.requests if n not in member.outbox] + list(member.held)
        if not numbers:
            return False
        chosen = numbers[number % len(numbers)]
        with self.lock:
            if chosen in member.requests:
                self.requests.answered(member, chosen, FOUND)
            else:
                items = member.held[chosen][1].items
                self.jobs.settle(member, Results(chosen, len(items), 0, 0), items)
            self.requests.assign()
        return True

    def end(self, member: Member, *, broken: bool) -> None:
        if not broken:
            self.crashes.update(self.sent(member))
        if self.replaces:
            self.join()
        with self.lock:
            member.reason = "it ended"
            member.broken = broken
            self.jobs.give_back(member)
            self.requests.give_back(member)
            self.requests.assign()
        assert member.idle

    def pop(self) -> None:
        while (answer := self.job.queue.pop()) is not None:
            first, body = answer
            self.rows += first if isinstance(first, list) else [item[1] for item in body]

    def check_alone(self) -> None:
        for member in self.members:
            if member.on_trial():
                assert len(member.requests) + len(member.held) == 1, "a suspect is run alone"
            assert len(member.requests) <= PER_PROCESS


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["feed", "submit", "send", "send", "send", "answer", "answer", "break"]),
        st.integers(0, PROCESSES - 1),
        st.integers(0, 5),
    ),
    max_size=120,
)
DEADLY = st.sets(
    st.builds("{}{}".format, st.sampled_from(["row", "request"]), st.integers(0, 12)), max_size=3
)


@settings(max_examples=400, deadline=None)
@given(EVENTS, DEADLY)
def test_only_deadly_images_are_convicted_and_everything_else_has_a_result(events, deadly):
    floor = Floor(deadly)
    for event, process, number in events:
        member = floor.alive()[process]
        if event == "feed":
            floor.feed(number + 1)
        elif event == "submit":
            floor.submit()
        elif event == "send":
            floor.send(member)
        elif event == "answer":
            floor.answer(member, number)
        else:
            floor.end(member, broken=True)
        floor.check_alone()
        floor.pop()
    floor.jobs.end(floor.job)
    busy = True
    while busy:
        busy = False
        for member in floor.alive():
            busy |= floor.send(member)
            floor.check_alone()
            busy |= floor.answer(member, 0)
            floor.check_alone()
        floor.pop()
    rows = [f"row{i}" for i in range(floor.fed)]
    assert floor.rows == rows and floor.job.queue.finished
    assert set(floor.convicted) == deadly & set(rows)
    for key, request in floor.submitted.items():
        result = request.future.result(0)
        assert result.failure == ("runtime" if key in deadly else None)
    for key in deadly & {*rows, *floor.submitted}:
        assert floor.crashes[key] == 2
    assert not len(floor.requests) and all(member.idle for member in floor.members)
    assert floor.requests.tester is None


def test_what_is_too_late_or_cancelled_is_not_given_to_a_process():
    floor = Floor()
    late = floor.submit(deadline=time.monotonic() - 1)
    assert late.future.result(0).failure == "deadline"
    assert all(member.idle for member in floor.members)
    given = floor.submit(deadline=time.monotonic() + 1e6)
    holder = next(member for member in floor.members if member.requests)
    assert given.future.cancel()
    assert not floor.send(holder) and holder.idle


def test_what_was_not_sent_yet_is_no_suspect_of_a_crash():
    floor = Floor()
    for _ in range(PROCESSES):
        floor.submit()
    first = floor.members[0]
    floor.end(first, broken=False)
    assert not any(request.suspect for request in floor.submitted.values())
    second = floor.members[1]
    assert floor.send(second)
    floor.end(second, broken=False)
    assert sum(request.suspect for request in floor.submitted.values()) == 1


def test_an_image_of_a_job_is_no_suspect_beside_a_submitted_one():
    floor = Floor()
    first, second, third = floor.members
    floor.submit()
    assert first.requests and floor.send(first)
    floor.feed(CHUNK)
    floor.jobs.end(floor.job)
    assert floor.send(second)
    floor.end(second, broken=False)
    assert floor.jobs.suspects == CHUNK
    assert not floor.send(first), "it would not be alone"
    assert floor.send(third) and third.on_trial()
    assert floor.answer(first, 0) and floor.send(first), "now it is"


def test_suspects_come_to_run_however_much_else_there_is():
    for kind in ("row", "request"):
        floor = Floor(deadly={f"{kind}2"})
        for _ in range(60):
            floor.feed(CHUNK * PROCESSES)
            for _ in range(PROCESSES):
                floor.submit()
            for member in floor.alive():
                while floor.send(member):
                    pass
                floor.check_alone()
            for member in floor.alive():
                floor.answer(member, 1)  # it never comes to hold nothing by itself
        assert floor.crashes[f"{kind}2"] == 2, "its second process was found at once"
        assert not floor.jobs.suspects and floor.requests.tester is None
        submitted = [r for r in floor.submitted.values() if r.future.done()]
        assert len(submitted) > 60, "clients are served meanwhile"


def test_a_suspect_request_comes_to_run_beside_a_job_without_end():
    floor = Floor(deadly={"request2"})
    floor.replaces = False
    for _ in range(PROCESSES):
        floor.submit()
    for member in floor.members:
        assert floor.send(member)
    first, second, third = floor.members
    floor.feed(10 * CHUNK)
    assert floor.send(first) and floor.send(second)
    assert floor.answer(third, 0) and not third.alive
    assert not floor.jobs.suspects, "it is the only suspect"
    for _ in range(40):
        floor.feed(2 * CHUNK)
        for member in floor.alive():
            while floor.send(member):
                pass
            floor.check_alone()
            floor.answer(member, 0)
    assert floor.crashes["request2"] == 2
    assert len(floor.alive()) == 1 and floor.requests.tester is None
