"""The two spellings of an option: `--imgsz 640` and `imgsz=640`."""

from __future__ import annotations

import re

import click

from brimful.cli.ultralytics import answer_to, check_mode, verb_first

_PAIR = re.compile(r"([a-z][a-z0-9_]*)=(.*)", re.DOTALL)
_SWITCH = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def normalise(arguments: list[str], root: click.Group) -> list[str]:
    """Turn `key=value` and `--key_with_underscores` into what the parser knows.

    For a flag, `key=True` sets it and `key=False` does not; `key=None` is dropped, as it means
    the default. The value of an option before it and what follows `--` are left alone.

    Options of Ultralytics that brimful does not have are answered (see `brimful.cli.ultralytics`).

    Args:
        arguments: Without the program's name.
        root: Has the verbs, whose options say what is a flag.

    Raises:
        UsageError: An option or a mode is Ultralytics', and there is something else instead.
    """
    arguments = verb_first(arguments, tuple(root.commands))
    options = _options(arguments, root)
    predicts = arguments[:1] == ["predict"]
    plain: list[str] = []
    is_value = False
    for position, argument in enumerate(arguments):
        if is_value:
            plain.append(argument)
            is_value = False
            continue
        if argument == "--":
            return plain + arguments[position:]
        pair = _PAIR.fullmatch(argument)
        if pair is not None:
            name = "--" + pair[1].replace("_", "-")
            if predicts and name == "--mode":
                check_mode(pair[2])
            elif not (predicts and name not in options and answer_to(name[2:], pair[2])):
                plain += _from_pair(name, pair[2], options)
            continue
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
            option = options.get(name)
            if predicts and option is None and answer_to(name[2:], value if equals else None):
                continue
            is_value = not equals and option is not None and not option.is_flag
        plain.append(name + equals + value)
    return plain


def known_options(command: click.Command) -> str:
    """Return a line that lists a command's options, or a group's verbs."""
    if isinstance(command, click.Group):
        return "verbs: " + ", ".join(sorted(command.commands))
    options = sorted(
        opt for parameter in command.params for opt in parameter.opts if opt.startswith("--")
    )
    return f"options of {command.name}: {' '.join(options)}"


def _options(arguments: list[str], root: click.Group) -> dict[str, click.Option]:
    """Return the options of the verb that is called."""
    verb = next((root.commands[word] for word in arguments if word in root.commands), root)
    return {
        name: option
        for option in verb.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }


def _from_pair(name: str, value: str, options: dict[str, click.Option]) -> list[str]:
    if value.lower() == "none":
        return []
    option = options.get(name)
    switch = _SWITCH.get(value.lower())
    if option is None or not option.is_flag or switch is None:
        return [f"{name}={value}"]
    if switch:
        return [name]
    return list(option.secondary_opts[:1])  # one that cannot be negated is off anyway
