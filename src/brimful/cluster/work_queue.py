"""WorkQueue: the images of one job, handed out on demand, their results in order. Pure policy.

No thread, no lock, no clock of its own. Images are numbered as they are fed. Whoever has room takes
a chunk of consecutive ones; its result is one piece of the output. The window bounds the images
between being fed and their result being popped, so one slow chunk at the head stops the feeder and
not the memory.

When an engine process crashes, the images it held are suspects: one of them may have killed it.
They are handed out again before anything else, each to a process that holds nothing else meanwhile,
so that the image with which a second process crashes is known. That one gets an error, and
everything else a result. When a process ends because its device is broken, no image is suspected:
its chunks are handed out again as they were, before new ones.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Chunk(Generic[T]):
    """Consecutive images that travel together.

    Attributes:
        first: Number of the first one.
        items: The images.
        suspect: A single image that was with a process when it died.
    """

    first: int
    items: list[T]
    suspect: bool = False

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.items)


class WorkQueue(Generic[T, R]):
    """Images waiting, images handed out, results waiting for their turn.

    Attributes:
        chunk: Images that travel together at most.
    """

    def __init__(self, *, window: int, chunk: int, linger_s: float) -> None:
        """Start empty.

        Args:
            window: Images between being fed and their result being popped at most.
            chunk: Images that travel together at most.
            linger_s: Seconds that images wait for a chunk to fill up.
        """
        self._window = window
        self.chunk = chunk
        self._linger_s = linger_s
        self._pending: deque[T] = deque()
        self._since = 0.0
        self._suspects: list[tuple[int, T]] = []
        self._returned: list[tuple[int, Chunk[T]]] = []
        self._settled: dict[int, tuple[int, R]] = {}
        self._fed = 0
        self._popped = 0
        self._ended = False

    @property
    def pending(self) -> int:
        """Images that wait to be handed out, suspects aside."""
        return len(self._pending) + sum(len(chunk) for _, chunk in self._returned)

    @property
    def suspects(self) -> int:
        """Suspects that wait to be handed out."""
        return len(self._suspects)

    @property
    def ended(self) -> bool:
        """Whether no more images come."""
        return self._ended

    @property
    def finished(self) -> bool:
        """Whether no image will come and every result was popped."""
        return self._ended and self._popped == self._fed

    def room(self) -> int:
        """Return how many more images the window takes."""
        return self._window - (self._fed - self._popped)

    def feed(self, items: Sequence[T], now: float) -> bool:
        """Add images; return whether a chunk began, or is full, by it."""
        began = not self._pending
        self._fed += len(items)
        self._pending.extend(items)
        if began:
            self._since = now
        return began or len(self._pending) >= self.chunk

    def end(self) -> None:
        """Say that no more images come."""
        self._ended = True

    def take(self, now: float, *, room: int, held: Collection[Chunk[T]]) -> Chunk[T] | None:
        """Hand out a chunk, or None when there is none for the one who asks.

        Args:
            now: The time, in seconds.
            room: Images that the one who asks has room for; less than a full chunk is too little.
            held: Chunks that it has already.
        """
        if any(chunk.suspect for chunk in held):
            return None
        if self._suspects:
            if held:
                return None
            number, item = heapq.heappop(self._suspects)
            return Chunk(number, [item], suspect=True)
        if self._returned and room >= len(self._returned[0][1]):
            return heapq.heappop(self._returned)[1]
        due = self.due_at()
        if due is None or now < due or room < self.chunk or not self._pending:
            return None
        count = min(self.chunk, len(self._pending))
        first = self._fed - len(self._pending)
        items = [self._pending.popleft() for _ in range(count)]
        self._since = now
        return Chunk(first, items)

    def due_at(self) -> float | None:
        """Return when the next chunk may be taken, in seconds, or None when no image waits."""
        if self._returned:
            return float("-inf")
        if not self._pending:
            return None
        if self._ended or len(self._pending) >= self.chunk:
            return float("-inf")
        return self._since + self._linger_s

    def settle(self, chunk: Chunk[T], result: R) -> bool:
        """Keep the result of a chunk; return whether it is the next to pop."""
        self._settled[chunk.first] = (len(chunk), result)
        return chunk.first == self._popped

    def give_back(self, chunk: Chunk[T], *, device: bool = False) -> bool:
        """Take back what a process held when it ended.

        Args:
            chunk: What it held.
            device: Its device was broken, so that its images are not suspected.

        Returns:
            Whether its images wait again. False for a suspect: its second process crashed with it,
            and it is for the caller to settle it with an error.
        """
        if device:
            if chunk.suspect:
                heapq.heappush(self._suspects, (chunk.first, chunk.items[0]))
            else:
                heapq.heappush(self._returned, (chunk.first, chunk))
            return True
        if chunk.suspect:
            return False
        for number, item in enumerate(chunk.items, chunk.first):
            heapq.heappush(self._suspects, (number, item))
        return True

    def pop(self) -> R | None:
        """Return the next result in order, or None when it is not there yet."""
        settled = self._settled.pop(self._popped, None)
        if settled is None:
            return None
        count, result = settled
        self._popped += count
        return result

    def clear(self) -> list[T]:
        """Forget everything that waits; return the images that were never handed out."""
        waiting = [*self._pending, *(item for _, item in self._suspects)]
        waiting += [item for _, chunk in self._returned for item in chunk.items]
        self._returned.clear()
        self._pending.clear()
        self._suspects.clear()
        self._settled.clear()
        return waiting
