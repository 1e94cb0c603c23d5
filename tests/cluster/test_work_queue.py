"""The policy alone: no process, no thread, a clock that the tests set."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from brimful.cluster.allowance import Allowance
from brimful.cluster.work_queue import WorkQueue

PLENTY = 1000


def queue_of(images, *, window=1000, chunk=4, linger_s=1.0, ended=False):
    queue = WorkQueue(window=window, chunk=chunk, linger_s=linger_s)
    queue.feed(list(images), 0.0)
    if ended:
        queue.end()
    return queue


def take(queue, now=0.0, room=PLENTY, held=()):
    return queue.take(now, room=room, held=held)


def test_chunks_are_consecutive_and_full():
    queue = queue_of(range(10))
    first, second = take(queue), take(queue)
    assert (first.first, first.items) == (0, [0, 1, 2, 3])
    assert (second.first, second.items) == (4, [4, 5, 6, 7])
    assert queue.pending == 2


def test_a_chunk_that_is_not_full_waits_for_the_linger_and_no_longer():
    queue = WorkQueue(window=100, chunk=4, linger_s=1.0)
    queue.feed(["a"], 10.0)
    queue.feed(["b"], 10.9)
    assert queue.due_at() == 11.0
    assert take(queue, 10.99) is None
    assert take(queue, 11.0).items == ["a", "b"]
    assert queue.due_at() is None


def test_the_end_waits_for_nothing():
    queue = queue_of("ab", ended=True)
    assert take(queue).items == ["a", "b"]
    assert take(queue) is None


def test_feed_says_when_somebody_should_look():
    queue = WorkQueue(window=100, chunk=3, linger_s=1.0)
    assert [queue.feed([i], 0.0) for i in range(5)] == [True, False, True, True, True]


def test_who_has_too_little_room_takes_nothing():
    queue = queue_of(range(8), ended=True)
    assert take(queue, room=3) is None
    assert len(take(queue, room=4)) == 4


def test_results_come_in_order_and_once():
    queue = queue_of(range(12), ended=True)
    chunks = [take(queue) for _ in range(3)]
    assert not queue.settle(chunks[2], "c")
    assert queue.pop() is None
    assert queue.settle(chunks[0], "a")
    assert [queue.pop(), queue.pop()] == ["a", None]
    assert not queue.finished
    assert queue.settle(chunks[1], "b")
    assert [queue.pop(), queue.pop(), queue.pop()] == ["b", "c", None]
    assert queue.finished


def test_the_window_counts_until_results_are_popped():
    queue = queue_of(range(8), window=8)
    assert queue.room() == 0
    first, second = take(queue), take(queue)
    queue.settle(second, "second")
    assert queue.room() == 0  # the head holds the window
    queue.settle(first, "first")
    assert queue.room() == 0
    queue.pop()
    assert queue.room() == 4


def test_what_a_dead_process_held_is_handed_out_first_and_each_image_alone():
    queue = queue_of(range(12), ended=True)
    lost, other = take(queue), take(queue)
    assert queue.give_back(lost)
    assert queue.suspects == 4
    assert take(queue, held=[other]) is None  # neither a suspect nor anything else
    suspect = take(queue)
    assert (suspect.first, suspect.items, suspect.suspect) == (0, [0], True)
    assert take(queue, held=[suspect]) is None
    assert [take(queue).first for _ in range(3)] == [1, 2, 3]
    assert take(queue, held=[suspect]) is None  # though no suspect waits any more
    assert take(queue, held=[other]).first == 8
    assert not queue.give_back(suspect), "its second process died with it"
    assert queue.give_back(other)


def test_suspects_of_two_processes_keep_the_order():
    queue = queue_of(range(16), ended=True)
    chunks = [take(queue) for _ in range(4)]
    for i in (3, 1):
        queue.give_back(chunks[i])
    assert [take(queue).first for _ in range(8)] == [4, 5, 6, 7, 12, 13, 14, 15]


def test_chunks_of_a_broken_device_go_out_as_they_were_before_new_ones():
    queue = queue_of(range(16), ended=True)
    chunks = [take(queue) for _ in range(3)]
    for i in (2, 0):
        assert queue.give_back(chunks[i], device=True)
    again = [take(queue) for _ in range(3)]
    assert [(chunk.first, len(chunk), chunk.suspect) for chunk in again] == [
        (0, 4, False),
        (8, 4, False),
        (12, 4, False),
    ]


def test_a_suspect_that_a_broken_device_held_is_a_suspect_still():
    queue = queue_of(range(4), ended=True)
    queue.give_back(take(queue))
    suspect = take(queue)
    assert suspect.suspect and queue.give_back(suspect, device=True)
    assert take(queue).first == suspect.first, "it has not crashed a second process"


def test_clear_returns_what_was_not_handed_out():
    queue = queue_of(range(12))
    chunk = take(queue)
    take(queue)
    queue.give_back(chunk)
    assert sorted(queue.clear()) == [0, 1, 2, 3, 8, 9, 10, 11]
    assert take(queue) is None


PROCESSES = 5
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["feed", "take", "take", "answer", "answer", "crash", "break"]),
        st.integers(0, PROCESSES - 1),
        st.integers(1, 9),
    ),
    max_size=200,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_whatever_ends_every_image_comes_once_and_in_order(steps):
    """Processes that take, answer, crash and break, until one that never does ends the job."""
    queue = WorkQueue(window=60, chunk=5, linger_s=0.5)
    count, fed, now = 150, 0, 0.0
    held: dict[int, list] = {i: [] for i in range(PROCESSES)}
    crashes: Counter[int] = Counter()
    out: list[int] = []
    culprits: list[int] = []

    def feed(most):
        nonlocal fed
        some = list(range(fed, min(count, fed + min(queue.room(), most))))
        if some:
            queue.feed(some, now)
            fed += len(some)
        if fed == count:
            queue.end()
        assert fed - len(out) <= 60

    def take_one(mine):
        chunk = take(queue, now, 20 - sum(map(len, mine)), mine)
        if chunk is not None:
            mine.append(chunk)
            assert len(mine) == 1 or not any(c.suspect for c in mine), "a suspect is alone"
            assert chunk.suspect == any(crashes[i] for i in chunk.items)
            assert chunk.items == list(range(chunk.first, chunk.first + len(chunk)))

    def answer(mine, number):
        if mine:
            chunk = mine.pop(number % len(mine))
            queue.settle(chunk, chunk.items)

    def pop():
        while (result := queue.pop()) is not None:
            out.extend(result)

    for action, process, number in steps:
        now += 0.1
        mine = held.get(process)
        if action == "feed":
            feed(number)
        elif mine is None:
            continue
        elif action == "take":
            take_one(mine)
        elif action == "answer":
            answer(mine, number)
        elif len(held) > 1:
            for chunk in held.pop(process):
                if action == "crash":
                    crashes.update(chunk.items)
                if not queue.give_back(chunk, device=action == "break"):
                    culprits.extend(chunk.items)
                    queue.settle(chunk, chunk.items)
        pop()
    for _ in range(10 * count):
        if queue.finished:
            break
        now += 1.0
        feed(9)
        for mine in held.values():
            take_one(mine)
            answer(mine, 0)
        pop()
    assert queue.finished and out == list(range(count))
    assert sorted(culprits) == sorted(i for i in crashes if crashes[i] == 2)
    assert max(crashes.values(), default=0) <= 2


def test_the_allowance_follows_the_time_a_chunk_takes():
    allowance = Allowance(least=32, most=100, target_s=1.0)
    assert allowance.images == 32
    allowance.observe(8, 0.9)
    assert allowance.images == 40
    for _ in range(20):
        allowance.observe(8, 0.1)
    assert allowance.images == 100
    allowance.observe(8, 1.1)
    assert allowance.images == 92
    for _ in range(20):
        allowance.observe(8, 5.0)
    assert allowance.images == 32
