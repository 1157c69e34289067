"""Completion in a shell: `complete -o nospace -o default -C "sparselt --complete" sparselt` in bash; zsh takes it, too.

The shell calls `sparselt --complete` with what has been typed in COMP_LINE and COMP_POINT, and reads a word a line.
"""

import dataclasses
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from typing import get_args


def print_completions(commands: Mapping[str, tuple[str, str, str]]) -> int:
    """Prints the words that may follow; returns the exit code. commands: `sparselt.cli.main.COMMANDS`."""
    line = os.environ.get("COMP_LINE", "")
    place = os.environ.get("COMP_POINT", "")
    typed = line.encode()[: int(place) if place.isdigit() else None].decode(errors="ignore")  # the shell counts bytes
    try:
        words = shlex.split(typed)
    except ValueError:  # an open quote
        return 0
    begun = words.pop() if words and not typed[-1:].isspace() else ""
    for word in sorted(set(_following(words[1:], commands))):
        if word.startswith(begun) and word != begun:
            # The shell replaces what follows the last = only.
            print(word[begun.rfind("=") + 1 :] + ("" if word.endswith("=") else " "))
    return 0


def _following(words: list[str], commands: Mapping[str, tuple[str, str, str]]) -> Iterable[str]:
    """What may follow these words of a command line. Nothing for files."""
    name = next((name for name in commands if words[: len(name.split())] == name.split()), "")
    if not name:
        return (each.split()[len(words)] for each in commands if each.split()[: len(words)] == words)
    given = words[len(name.split()) :]
    option = next((word for word in reversed(given) if word.startswith("--")), "")
    command = getattr(import_module(commands[name][0]), commands[name][1])
    fields = dataclasses.fields(command) if isinstance(command, type) else ()
    options = {f"--{field.name.replace('_', '-')}": field.type for field in fields}
    values = list(_choices(options.get(option)))
    if name == "reproduce":
        values += _names(option, given)
    return values if values and given[-1:] == [option] else [*values, *options]


def _choices(kind: object) -> Iterator[str]:
    """The texts that a type allows, such as Literal["cpu", "cuda"]; none if it allows any."""
    for part in get_args(kind):
        yield from (part,) if isinstance(part, str) else _choices(part)


def _names(option: str, given: list[str]) -> Iterator[str]:
    """The names that may follow an option of `sparselt reproduce`, the last one given."""
    from sparselt.reproduce import SCALES, SETTINGS, load_setting

    if not given:
        yield from SETTINGS
    elif option == "--scale":
        yield from SCALES
    elif option == "--experiments":
        from sparselt.experiments import known_experiments

        yield from ("main", *known_experiments())
    elif option == "--set":
        setting = next((word for word in given if word in SETTINGS), "digits_resnet8")
        yield from (f"{name}=" for name in load_setting(setting).values())
