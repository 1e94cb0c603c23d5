"""Every error brimful raises on purpose: what was expected, what came, what to do.

Each class carries the process exit code and the HTTP status that it turns into at the edges,
so that neither the CLI nor the server keeps a table of its own.
"""

from __future__ import annotations


class BrimfulError(Exception):
    """Base of all errors with a message meant for the user.

    Attributes:
        exit_code: Process exit status of the CLI (see the table in docs/cli.md).
        http_status: Status of an HTTP reply that fails with this error.
    """

    exit_code: int = 1
    http_status: int = 500


class UsageError(BrimfulError):
    """An option, argument or source that makes no sense; the message lists what would."""

    exit_code = 2
    http_status = 400


class MissingExtraError(UsageError):
    """A feature needs a library that is not installed."""

    def __init__(self, feature: str, extra: str, *, module: str) -> None:
        """Name the feature, the module it lacks and the exact install line."""
        super().__init__(
            f"{feature} needs the Python module {module!r}, which is not installed. "
            f"Install it with: pip install 'brimful[{extra}]'"
        )
        self.feature = feature
        self.extra = extra
        self.module = module


class ImageError(BrimfulError):
    """One image cannot be read, decoded or run. It hurts that image only."""

    exit_code = 3
    http_status = 400


class TooManyFailuresError(BrimfulError):
    """More inputs failed than `--max-failures` allows."""

    exit_code = 3


class ModelError(BrimfulError):
    """A model file that cannot be read, is not supported, or is not trusted."""

    exit_code = 4


class ExportError(BrimfulError):
    """A model could not be converted, or its conversion does not agree with it."""

    exit_code = 5


class MemoryBudgetError(BrimfulError):
    """What was asked for does not fit the memory budget; the message has the arithmetic."""

    exit_code = 6


class RuntimeFailedError(BrimfulError):
    """The runtime failed while executing the model."""


class EngineStoppedError(BrimfulError):
    """The engine was closed, or one of its stages died, while this work was in flight."""

    http_status = 503


class DeviceFailedError(EngineStoppedError):
    """The device fails whatever it is given; no image is at fault, and none gets a result."""


class QueueFullError(BrimfulError):
    """The engine has as many images waiting as it takes, or as it takes of one source."""

    http_status = 429


class InterruptedJobError(BrimfulError):
    """Somebody stopped the job; it can go on."""

    exit_code = 130
