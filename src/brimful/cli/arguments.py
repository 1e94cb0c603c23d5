"""The two spellings of an option: `--imgsz 640` and `imgsz=640`."""

from __future__ import annotations

import re

import click

_PAIR = re.compile(r"([a-z][a-z0-9_]*)=(.*)", re.DOTALL)
_TRUE = {"true", "yes", "on"}
_FALSE = {"false", "no", "off"}


def normalise(arguments: list[str]) -> list[str]:
    """Turn `key=value` and `--key_with_underscores` into what the parser knows.

    `key=True` and `key=False` become a flag and its negation; `key=None` is dropped, as it means
    the default. What follows `--` is left alone.
    """
    plain: list[str] = []
    for position, argument in enumerate(arguments):
        if argument == "--":
            return plain + arguments[position:]
        pair = _PAIR.fullmatch(argument)
        if pair is None:
            name, equals, value = argument.partition("=")
            if name.startswith("--"):
                argument = name.replace("_", "-") + equals + value
            plain.append(argument)
            continue
        option = "--" + pair[1].replace("_", "-")
        value = pair[2]
        if value.lower() in _TRUE:
            plain.append(option)
        elif value.lower() in _FALSE:
            plain.append("--no-" + option[2:])
        elif value.lower() != "none":
            plain += [option, value]
    return plain


def known_options(command: click.Command) -> str:
    """Return a line that lists a command's options, or a group's verbs."""
    if isinstance(command, click.Group):
        return "verbs: " + ", ".join(sorted(command.commands))
    options = sorted(
        opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")
    )
    return f"options of {command.name}: {' '.join(options)}"
