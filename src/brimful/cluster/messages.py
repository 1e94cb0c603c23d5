"""Messages between the parent and its engine processes.

Each is pickled by itself. The parent sends Work, Submit, ResetStats, AskReport and WarmUp; that its
end of the pipe is closed means: leave. An engine process sends Ready or Failed once, then Results
(each followed by a message of its body's raw bytes), Answered, Report, WarmedUp, and Died as its
last word.
"""

from __future__ import annotations

from dataclasses import dataclass

from brimful.cluster.packing import Packed
from brimful.detections import Detections
from brimful.engine.lifecycle import EngineReport
from brimful.spec import ModelSpec, Size
from brimful.vision.heads.config import PostprocessConfig


@dataclass(frozen=True, slots=True)
class Work:
    """Images to run.

    Attributes:
        chunk: Number of the chunk, which its Results carry.
        encoded: The body shall be JSON lines; otherwise a pickled list of Detections.
        items: The images.
        params: What becomes a detection in them, or None for the engine's setting.
    """

    chunk: int
    encoded: bool
    items: list[Packed]
    params: PostprocessConfig | None = None


@dataclass(frozen=True, slots=True)
class Submit:
    """One image that a client submitted.

    Attributes:
        number: Number of the request, which its Answered carries.
        item: The image.
        client: Whom it is for: requests of one number share a line.
        params: What becomes a detection, or None for the engine's setting.
        priority: Requests of a higher number go first.
        deadline: When its result is no longer wanted, on the clock of `time.monotonic`, or None.
    """

    number: int
    item: Packed
    client: int
    params: PostprocessConfig | None
    priority: int
    deadline: float | None


@dataclass(frozen=True, slots=True)
class ResetStats:
    """Start measuring anew."""


@dataclass(frozen=True, slots=True)
class AskReport:
    """Answer with a Report."""


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Run every canvas once and answer with WarmedUp.

    Attributes:
        canvases: (height, width) of each; None for all that the engine can choose.
    """

    canvases: list[Size] | None


@dataclass(frozen=True, slots=True)
class Ready:
    """The engine runs.

    Attributes:
        spec: What the model is.
        description: What decides speed and results.
        postprocess: What becomes a detection where a request says nothing.
        queue: Images that may wait in the engine.
        imgsz: (height, width) of the full canvas.
    """

    spec: ModelSpec
    description: dict[str, str | int]
    postprocess: PostprocessConfig
    queue: int
    imgsz: Size


@dataclass(frozen=True, slots=True)
class RaisedError:
    """An error that travels: exceptions with an `__init__` of their own do not pickle.

    Attributes:
        kind: Its class.
        message: Its text.
        facts: Its attributes.
    """

    kind: type[BaseException]
    message: str
    facts: dict[str, object]


@dataclass(frozen=True, slots=True)
class Failed:
    """The engine could not be started.

    Attributes:
        error: Why.
    """

    error: RaisedError


@dataclass(frozen=True, slots=True)
class Results:
    """A chunk is done; its body follows.

    Attributes:
        chunk: Number of the chunk.
        count: Images.
        failures: Images with an error.
        found: Detections.
    """

    chunk: int
    count: int
    failures: int
    found: int


@dataclass(frozen=True, slots=True)
class Answered:
    """A submitted image has a result.

    Attributes:
        number: Number of the request.
        result: Its detections.
    """

    number: int
    result: Detections


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """The canvases were run.

    Attributes:
        canvases: (height, width) of each.
        error: Why one of them could not be run, or None.
    """

    canvases: list[Size]
    error: RaisedError | None


@dataclass(frozen=True, slots=True)
class Report:
    """How the engine spent its time."""

    report: EngineReport


@dataclass(frozen=True, slots=True)
class Died:
    """The engine stopped and the process ends.

    Attributes:
        reason: Why.
        device: The device is broken: no image that it held is suspected of anything.
    """

    reason: str
    device: bool = False


Control = ResetStats | AskReport | WarmUp
Reply = Report | WarmedUp
FromParent = Work | Submit | Control
FromEngine = Ready | Failed | Results | Answered | Reply | Died


def travelling(error: BaseException) -> RaisedError:
    """Take an error apart, so that `raised` can make it again in another process."""
    if not type(error).__module__.startswith("brimful."):
        return RaisedError(RuntimeError, f"{type(error).__name__}: {error}", {})
    return RaisedError(type(error), str(error), dict(vars(error)))


def raised(error: RaisedError) -> BaseException:
    """Make an error again, of the same class, with the same text and attributes."""
    made = error.kind.__new__(error.kind, error.message)
    made.__dict__.update(error.facts)
    return made
