"""The supervisor: stage threads that cannot die unnoticed."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Supervisor:
    """Runs stages in threads and reports the first that dies."""

    def __init__(self, on_death: Callable[[str, BaseException], None]) -> None:
        """Start without stages.

        Args:
            on_death: Told the stage and what it raised, on the dying thread, at most once.
        """
        self._on_death = on_death
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._dead = False

    def spawn(self, stage: str, loop: Callable[[], None]) -> None:
        """Run a stage's loop in a thread of its own until it returns."""
        thread = threading.Thread(
            target=self._guard, args=(stage, loop), name=f"brimful-{stage}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def report(self, stage: str, error: BaseException) -> None:
        """Report a stage that died on a thread that is not the supervisor's own."""
        with self._lock:
            if self._dead:
                return
            self._dead = True
        self._on_death(stage, error)

    def join(self, timeout: float) -> list[str]:
        """Wait for every stage to end; return the names of those that did not."""
        current = threading.current_thread()
        for thread in self._threads:
            if thread is not current:
                thread.join(timeout)
        return [t.name for t in self._threads if t.is_alive() and t is not current]

    def _guard(self, stage: str, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self.report(stage, error)
