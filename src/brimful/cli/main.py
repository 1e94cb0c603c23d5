"""The entry point: one command group, a file per verb, errors turned into exit codes."""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

import click

from brimful.cli.arguments import known_options, normalise
from brimful.cli.demo import demo
from brimful.cli.info import info
from brimful.cli.predict import predict
from brimful.cli.process import prepare_streams
from brimful.errors import BrimfulError

INTERRUPTED = 130

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG)


@click.group(
    help="Keeps the accelerator filled to the brim: YOLO models, images in, detections out. "
    "Options may be written --imgsz 640 or imgsz=640.",
    no_args_is_help=False,  # an error that lists the verbs, as with every other wrong usage
    context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="brimful", prog_name="brimful")
def root() -> None:
    """Hold the verbs."""


root.add_command(predict)
root.add_command(demo)
root.add_command(info)


def main() -> None:
    """Run the command line and exit with its status."""
    prepare_streams()
    leave(run(sys.argv[1:]))


def leave(status: int) -> NoReturn:
    """End the process without taking the interpreter apart.

    With PyTorch imported that takes half a second, and nothing of it is of use: files are closed,
    engines too, and the memory goes with the process. What is to run at the end does.

    Args:
        status: Of the process.
    """
    others = (t for t in threading.enumerate() if t is not threading.main_thread())
    try:
        if not all(thread.daemon for thread in others):
            sys.exit(status)  # the interpreter waits for them
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # what is left in a buffer has nowhere to go
        sys.exit(status)
    os._exit(status)


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: Without the program's name.
    """
    try:
        # Not root.main, which takes broken pipes and interruptions for itself.
        with root.make_context("brimful", normalise(arguments, root)) as context:
            root.invoke(context)
    except click.NoSuchOption as error:
        verb = error.ctx.command if error.ctx else root
        _complain(f"there is no option {error.option_name}", known_options(verb))
        return 2
    except click.UsageError as error:
        verb = error.ctx.command if error.ctx else root
        _complain(error.format_message(), known_options(verb))
        return 2
    except click.exceptions.Exit as ended:  # --help and --version
        return ended.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrimfulError as error:
        _complain(str(error))
        _give_up_stdout()
        return error.exit_code
    except BrokenPipeError:  # `brimful predict ... | head`: the reader has what it wanted
        _give_up_stdout()
    except OSError as error:
        if error.filename is not None or error.errno not in _CANNOT_WRITE:
            raise
        _complain(f"the output cannot be written: {error.strerror}")
        _give_up_stdout()
        return 1
    return 0


def _complain(message: str, hint: str | None = None) -> None:
    with suppress(OSError):  # standard error is full: the exit code has to say it
        print(f"brimful: {message}", file=sys.stderr)
        if hint:
            print(hint, file=sys.stderr)


def _give_up_stdout() -> None:
    """Let what is left in the buffer of standard output go nowhere when the interpreter ends."""
    if sys.stdout is not None:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
