"""Dataclass fields that carry help text and bounds, and the parsing of values for them."""

import dataclasses
import difflib
import functools
import math
import numbers
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from sparselt.errors import SettingError
from sparselt.training.schedule import parse_step

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

_EXPECTED = {int: "a whole number", float: "a number"}

_OTHER_NAMES = {
    "lr": ("learning_rate", "eta", "step_size", "base_lr", "max_lr"),
    "steps": ("epochs", "num_epochs", "iterations", "its", "max_steps", "num_steps", "training_steps"),
    "batch_size": ("batch", "bs"),
    "weight_decay": ("wd", "l2"),
    "warmup_steps": ("warmup", "warmup_epochs"),
    "schedule": ("scheduler", "lr_schedule"),
    "milestones": ("lr_milestones", "lr_steps"),
    "lr_factor": ("gamma", "lr_decay"),
    "optimizer": ("optim", "opt"),
    "model": ("arch", "architecture", "network", "net"),
    "levels": ("pruning_levels", "prune_levels", "rounds", "pruning_rounds", "pruning_iterations"),
    "fraction": ("amount", "pruning_fraction", "prune_fraction", "pruning_rate", "prune_rate", "prune_ratio"),
    "criterion": ("pruning_strategy", "pruning_method"),
    "rewind_steps": ("rewind_to", "rewind_epochs", "rewinding_steps", "late_rewinding"),
    "replicates": ("runs", "repeats", "repetitions", "seeds", "num_seeds"),
    "precision": ("dtype", "amp"),
    "threads": ("num_threads", "cpu_threads"),
    "initialization": ("init", "initializer"),
}
"""Our values, each with the names that other tools have for it."""

_ANOTHER = re.compile(r"[\s,;]\s*[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Rule:
    """The allowed values of a field of a setting or of an experiment's options. In a tuple it applies to each value.

    Args:
        help: what the field is, for a person.
        least, above, most, below: bounds; `above` and `below` are themselves not allowed.
        noun: what the bounds count, for messages.
        step: the field counts optimizer steps: it may be written `500it` or `4ep`, and lies within the training.
        levels_above: the field names levels of pruning; the setting must have this many levels above them.
        at_most: the field of the setting that bounds it.
        choices: the allowed names.
        equal: values of a tuple may be equal.
        in_protocol: the field is part of the protocol of a run.
        shown: whether the protocol shows it for a setting.
        torch_default: the default is that of torch.
    """

    help: str
    least: float | None = None
    above: float | None = None
    most: float | None = None
    below: float | None = None
    noun: str = ""
    step: bool = False
    levels_above: int | None = None
    at_most: str = ""
    choices: tuple[str, ...] = ()
    equal: bool = False
    in_protocol: bool = True
    shown: "Callable[[Setting], bool]" = lambda setting: True
    torch_default: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raises a SettingError unless `value`, of the field's type, keeps the bounds."""
        several = isinstance(value, tuple)
        if several and not self.equal and len(set(value)) < len(value):
            raise SettingError(f"{name} {list(value)} names a value twice")
        for item in value if several else (value,):
            if self.choices and item not in self.choices:
                raise SettingError(f"{name} {_holds(item, several)}; expected some of {', '.join(self.choices)}")
            if isinstance(item, int | float) and not isinstance(item, bool) and not self._allows(item):
                raise SettingError(f"{name} {_holds(item, several)}; expected {self._expected(item)}")

    def _allows(self, number: float) -> bool:
        return (
            math.isfinite(number)
            and (self.least is None or number >= self.least)
            and (self.above is None or number > self.above)
            and (self.most is None or number <= self.most)
            and (self.below is None or number < self.below)
        )

    def _expected(self, number: float) -> str:
        noun = f" {self.noun}" if self.noun else ""
        if self.noun and self.least is not None and self.most is not None:
            return f"{self.least:,} to {self.most:,}{noun}"
        if self.below is not None and number >= self.below:
            return f"less than {self.below:g}"
        if self.most is not None and number > self.most:
            return f"{self.most:,} at most"
        if self.above == 0:
            return "a positive number"
        if self.least == 0:
            return "zero or more"
        return "a finite number" if self.least is None else f"at least {self.least:g}{noun}"


def value(default: Any = dataclasses.MISSING, *, help: str, omit_default: bool = False, **rule: Any) -> Any:
    """A dataclass field with a `Rule`; its arguments are the rule's.

    omit_default: for a field that earlier versions did not have. Its default does not change their digests.
    """
    return field(default=default, metadata={"rule": Rule(help, **rule), "omit_default": omit_default})


def rules(owner: Any) -> dict[str, tuple[Any, Rule]]:
    """Type and rule of each field of a dataclass, or of its value, that may be set."""
    return _rules(owner if isinstance(owner, type) else type(owner))


@functools.cache
def _rules(kind: Any) -> dict[str, tuple[Any, Rule]]:
    fields = [f for f in dataclasses.fields(kind) if "rule" in f.metadata]
    if any(isinstance(f.type, str) for f in fields):  # its file has `from __future__ import annotations`
        hints = get_type_hints(kind)
        return {f.name: (hints[f.name], f.metadata["rule"]) for f in fields}
    return {f.name: (f.type, f.metadata["rule"]) for f in fields}


def nearest(name: str, names: Iterable[str]) -> str:
    """'; did you mean a or b?', or all names if none is near."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; expected one of {', '.join(names)}"


def nearest_value(name: str, names: Iterable[str]) -> str:
    """As `nearest`, for values of a setting. A name that other tools use is answered with ours."""
    names = list(names)
    meant = next((ours for ours, others in _OTHER_NAMES.items() if name.lower() in others and ours in names), "")
    how = f", in optimizer steps (30 epochs: --set {meant}=30ep)" if "epoch" in name.lower() else ""
    return f"; did you mean {meant}{how}?" if meant else nearest(name, names)


def assigned(assignment: str) -> tuple[str, str]:
    """Name and text of one `name=value` of `--set`.

    Raises:
        SettingError: `assignment` is not of this form.
    """
    name, equals, text = assignment.partition("=")
    if not equals or not name or _ANOTHER.search(text):
        raise SettingError(
            f"--set {assignment!r} is not understood; expected name=value without spaces, several with spaces between, "
            "such as --set lr=0.1 levels=3"
        )
    return name, text


def typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as the type of its field: equal numbers are equal values, whether a rate was written 1 or 1.0.

    Raises:
        SettingError: a value of another type.
    """
    if get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            example = f"({value},)" if isinstance(value, str) and get_args(kind)[0] is not str else f"({value!r},)"
            raise SettingError(f"{name} is {value!r}; expected several in a tuple, such as {example}")
        kinds = get_args(kind)
        if ... not in kinds and len(value) != len(kinds):
            raise SettingError(f"{name} has {len(value)} values; expected {len(kinds)}")
        return tuple(typed(name, item, kinds[0]) for item in value)
    if get_origin(kind) is Literal:
        return _choice(name, value, get_args(kind))
    if kind is bool and not isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}; expected True or False")
    if kind in (int, float):
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or (kind is int and value != value // 1):
            raise SettingError(f"{name} is {value!r}; expected {_EXPECTED[kind]}")
        return kind(value)
    if kind is str and not isinstance(value, str):
        raise SettingError(f"{name} is {value!r}; expected a name")
    return value


def parse(name: str, text: str, kind: Any, rule: Rule, steps_per_epoch: int) -> Any:
    """The value that `--set name=text` gives.

    Raises:
        SettingError: it is not understood.
    """

    def step(part: str) -> int:
        return parse_step(part, steps_per_epoch)

    try:
        if get_origin(kind) is tuple:
            parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
            return tuple(step(part) if rule.step else get_args(kind)[0](part) for part in parts)
        if get_origin(kind) is Literal:
            return _choice(name, text, get_args(kind))
        if kind is bool:
            return {"true": True, "false": False}[_choice(name, text.lower(), ("true", "false"))]
        return step(text) if rule.step else kind(text)
    except SettingError as error:
        raise SettingError(f"--set {name}={text}: {error}") from error
    except ValueError as error:
        several = (
            "numbers with commas between" if get_args(kind)[:1] == (float,) else "whole numbers with commas between"
        )
        raise SettingError(f"--set {name}={text}: expected {_EXPECTED.get(kind, several)}") from error


def _holds(item: Any, several: bool) -> str:
    if several:
        return f"holds {item!r}"
    return f"is {item:,}" if isinstance(item, int) else f"is {item!r}"


def _choice(name: str, text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise SettingError(f"{name} is {text!r}; expected one of {', '.join(choices)}")
    return text
