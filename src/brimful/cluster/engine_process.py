"""EngineProcess: one engine process as its parent sees it."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import pickle
import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from brimful.child_python import safe_path
from brimful.cluster.arena import Arena
from brimful.cluster.child import serve
from brimful.cluster.messages import Failed, FromEngine, FromParent, Ready, Results, raised
from brimful.cluster.start_engine import StartEngine
from brimful.errors import EngineStoppedError

_SPAWN = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
_PIPE_BYTES = 2**20
_EXIT_S = 5.0


class EngineProcess:
    """A process with an engine, and the pipes to it. One thread sends, one receives."""

    def __init__(self, start: StartEngine, device: str, arena: Arena) -> None:
        """Start the process; it loads the model while others do.

        Args:
            start: Starts the engine, in the process.
            device: `cpu` or `cuda:INDEX`.
            arena: Where images in memory are.
        """
        self.device = device
        self._reaping = threading.Lock()  # waiting for a process takes its status away from others
        theirs, self._commands = _pipe()
        self._answers, their_answers = _pipe()
        self._process = _SPAWN.Process(
            target=serve,
            args=(start, device, arena, theirs, their_answers),
            name=f"brimful {device}",
        )
        try:
            with safe_path(), _signals_wait():
                self._process.start()
        except BaseException:
            self._commands.close()
            self._answers.close()
            raise
        finally:
            # Only the process itself may hold these: their end is how each side learns of the
            # other's.
            theirs.close()
            their_answers.close()

    @property
    def pid(self) -> int | None:
        """The process's id."""
        return self._process.pid

    def await_ready(self) -> Ready:
        """Wait until the engine runs.

        Raises:
            BrimfulError: What starting it raised.
            EngineStoppedError: The process ended, or starting the engine raised anything else.
        """
        try:
            message, _ = self.receive()
        except (EOFError, OSError):
            raise EngineStoppedError(
                f"the engine process of {self.device} ended while it loaded: {self.ending()}"
            ) from None
        if isinstance(message, Failed):
            error = raised(message.error)
            if message.error.kind is RuntimeError:
                raise EngineStoppedError(f"the engine of {self.device} did not start: {error}")
            raise error
        assert isinstance(message, Ready)
        return message

    def send(self, message: FromParent) -> None:
        """Send a message, waiting until the process has taken what came before it.

        Raises:
            OSError: The process has ended.
        """
        self._commands.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def receive(self) -> tuple[FromEngine, bytes]:
        """Wait for a message; return it and the body that follows Results.

        Raises:
            EOFError: The process has ended.
            OSError: It ended in the middle of a message.
        """
        message: FromEngine = pickle.loads(self._answers.recv_bytes())
        return message, self._answers.recv_bytes() if isinstance(message, Results) else b""

    def dismiss(self) -> None:
        """Tell the process to leave. Nothing may be sent any more."""
        with contextlib.suppress(OSError):
            self._commands.close()

    def ending(self) -> str:
        """Say how the process ended, once nothing more can be received; end it if it did not."""
        if not self.await_end(_EXIT_S):
            self.kill()
            return "it hung and was killed"
        with self._reaping:
            code = self._process.exitcode or 0
        if code >= 0:
            return f"exit status {code}"
        reason = f"killed by {_signal_name(-code)}"
        return f"{reason} (out of memory?)" if -code == signal.SIGKILL else reason

    def await_end(self, timeout: float) -> bool:
        """Wait for the process to end; return whether it did."""
        if not wait([self._process.sentinel], timeout):
            return False
        with self._reaping:
            self._process.join()
        return True

    def kill(self) -> None:
        """End the process, whatever it does, and wait for it."""
        with self._reaping:
            self._process.kill()
            self._process.join()

    def close(self) -> None:
        """Give back pipes and process, once it has ended and no thread uses them."""
        self.dismiss()
        self._answers.close()
        self._process.close()


def start_all(
    processes: list[EngineProcess],
    start: StartEngine,
    devices: Sequence[str],
    arena: Arena,
    *,
    first_alone: bool,
) -> Ready:
    """Start a process for each device and wait for all engines.

    Args:
        processes: Gets the processes as they start, so that the caller can end them.
        start: Starts the engine of a device, in its process.
        devices: `cpu` or `cuda:INDEX` each.
        arena: Where images in memory are.
        first_alone: The others load when the first has loaded.

    Returns:
        What the first one said.

    Raises:
        BrimfulError: What starting an engine raised.
        EngineStoppedError: A process ended while it loaded.
    """
    ready: list[Ready] = []
    for device in devices:
        processes.append(EngineProcess(start, device, arena))
        if first_alone and not ready:
            ready.append(processes[0].await_ready())
    ready += [process.await_ready() for process in processes[len(ready) :]]
    return ready[0]


def _pipe() -> tuple[Connection[Any, Any], Connection[Any, Any]]:
    reader, writer = _SPAWN.Pipe(duplex=False)
    set_size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if set_size is not None:
        with contextlib.suppress(OSError):  # beyond the user's share of pipe memory
            fcntl.fcntl(writer.fileno(), set_size, _PIPE_BYTES)
    return reader, writer


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM, also in what is started, until it can deal with them.

    Otherwise Ctrl-C, which goes to every process of the terminal, would meet a starting interpreter
    and print its traceback.
    """
    resource_tracker.ensure_running()  # started under the mask, it would end with it lifted
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
