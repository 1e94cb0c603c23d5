"""InFlight: every image that was admitted and has no result yet. None is without an owner."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from brimful.detections import Detections
from brimful.engine.work import Owner, Work
from brimful.errors import BrimfulError

Group = tuple[Owner, list[Work], list[Detections]]


class InFlight:
    """The images in flight. `add` and `abandon` are called with the lock it is given held."""

    def __init__(self, lock: threading.Lock) -> None:
        """Start empty.

        Args:
            lock: The pipeline's.
        """
        self._lock = lock
        self._works: set[Work] = set()
        self._error: BrimfulError | None = None

    def __len__(self) -> int:
        """Return the number of images in flight."""
        return len(self._works)

    def add(self, works: Sequence[Work]) -> None:
        """Take images in, with the lock held."""
        self._works.update(works)

    def abandon(self, error: BrimfulError) -> list[Work]:
        """Let go of every image, with the lock held; the caller tells their owners.

        Args:
            error: Why. What is settled from now on has failed with it already.
        """
        self._error = error
        works = list(self._works)
        self._works.clear()
        return works

    def settle(self, works: Sequence[Work], results: Sequence[Detections]) -> None:
        """Hand results to whoever waits for them; those that were abandoned are dropped.

        An owner that raises costs nobody else an answer: what was not handed out yet is in
        flight again when the error leaves here, and fails with the pipeline.
        """
        groups = _by_owner(works, results)
        with self._lock:
            if self._error is not None:
                return
            self._works.difference_update(works)
        for i, (owner, own, found) in enumerate(groups):
            try:
                owner.settle(own, found)
            except BaseException:
                self._return([work for _, rest, _ in groups[i + 1 :] for work in rest])
                raise

    def _return(self, works: list[Work]) -> None:
        with self._lock:
            if self._error is None:
                self._works.update(works)
                return
        fail(works, self._error)


def fail(works: Sequence[Work], error: BrimfulError) -> None:
    """Fail images, all of them, even if telling one of their owners raises."""
    groups: dict[int, list[Work]] = {}
    for work in works:
        groups.setdefault(id(work.owner), []).append(work)
    fault: BaseException | None = None
    for own in groups.values():
        try:
            own[0].owner.fail(own, error)
        except BaseException as raised:
            fault = fault or raised
    if fault is not None:
        raise fault


def _by_owner(works: Sequence[Work], results: Sequence[Detections]) -> list[Group]:
    groups: dict[int, Group] = {}
    for work, result in zip(works, results, strict=True):
        owner = work.owner
        group = groups.get(id(owner))
        if group is None:
            group = groups[id(owner)] = (owner, [], [])
        group[1].append(work)
        group[2].append(result)
    return list(groups.values())
