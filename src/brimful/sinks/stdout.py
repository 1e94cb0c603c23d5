"""StdoutSink: JSON lines for the next program in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import BinaryIO

from brimful.detections import Detections
from brimful.errors import BrimfulError
from brimful.native.json_lines import open_encoder
from brimful.sinks.done import DoneSet


class StdoutSink:
    """JSON lines to a stream, flushed with every batch; nothing is kept, nothing to resume."""

    def __init__(self, stream: BinaryIO) -> None:
        """Keep the stream, which stays open when the sink is finished."""
        self._stream = stream
        self._done = DoneSet()
        self._encode = open_encoder()

    @property
    def done(self) -> DoneSet:
        """Nothing: a stream cannot be resumed."""
        return self._done

    def earlier(self) -> Iterator[Detections]:
        """Yield nothing."""
        return iter(())

    def write(self, batch: Sequence[Detections]) -> None:
        """Write and flush the lines of a batch."""
        self.append(self._encode(batch))

    def append(self, lines: bytes) -> None:
        """Write and flush lines.

        Raises:
            BrokenPipeError: Nobody reads them any more.
            BrimfulError: They cannot be written: the disk is full, or the stream is closed.
        """
        try:
            self._stream.write(lines)
            self._stream.flush()
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BrimfulError(
                f"standard output cannot be written: {reason}. What came there may end in a torn "
                "line; with --output a job can be resumed"
            ) from error

    def finish(self) -> None:
        """Flush."""
        self.append(b"")

    def abandon(self) -> None:
        """Do nothing: what was written is gone already."""
