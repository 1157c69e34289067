"""A setting: every number of one experiment's protocol, as one frozen value."""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin

from sparselt.data import CIFAR10, MNIST, Digits, SyntheticImages
from sparselt.errors import SettingError
from sparselt.experiments.grids import STEPS, Grids, check_room
from sparselt.models import check_model, prunable_shapes
from sparselt.models.initialization import Initialization, NormScale
from sparselt.pruning import check_fraction, weights_left
from sparselt.training.recipe import Recipe
from sparselt.training.schedule import Schedule, parse_step
from sparselt.training.techniques import TECHNIQUES, training_side

MOST_LEVELS = 1000
"""The most levels of pruning that a schedule may have."""

_LARGEST_SIDE = 4096
_MOST_POINTS = 1001
_MOST_REPLICATES = 1000
_EXPECTED = {int: "a whole number", float: "a number"}
_FIXED = {"name", "scale", "title", "paper", "source", "sources", "grids", "main"}
_STEPS = {"steps", "rewind_steps", "milestones", "warmup_steps", "control_rewind_step", *STEPS}


@dataclass(frozen=True)
class Setting:
    """The protocol of a run. A module of `reproduce/` fills it, with the source of each number in `sources`.

    Args:
        name, scale: `digits_resnet8`, `mini`.
        title, paper: for the report: a headline, and the paper (authors, year) whose protocol this is.
        source: the data set to write; None if the user has to bring it (`--data`).
        classes, channels, train_count, test_count: what the data must look like.
        engine: `resident` keeps decoded pixels in memory, `streaming` decodes JPEG in every epoch.
        train_size: side of the training crops in pixels (`streaming`), or of the images (`resident`).
        eval_size, eval_ratio: side of the centre crop, and crop side over image side (`streaming`).
        eval_interpolation: how the crop is resized, see `sparselt.data.CenterCrop` (`streaming`).
        padding, flip: random shift by up to `padding` pixels, random mirror image (`resident`; `flip` serves both).
        model, batch_size, steps, momentum, weight_decay, nesterov, decoupled_weight_decay, precision, threads,
            initialization, norm_scale, micro_batches, compile, rewound_momentum: see `sparselt.training.recipe.Recipe`.
        techniques: a name of `sparselt.training.techniques.TECHNIQUES`.
        schedule, lr, milestones, lr_factor, warmup_steps: see `sparselt.training.schedule.Schedule`.
        levels, fraction, scope: prunings, share of live weights that each removes, and how they are ranked.
        rewind_steps: the steps to rewind to; each below `steps`.
        replicates: independent repetitions, from different initializations.
        dense_replicates: dense trainings for the matching threshold, if more than `replicates`. A standard deviation
            from 4 runs is uncertain by 41%, from 12 by 21%, and a dense training is one of dozens.
        reshuffle: data order and augmentation differ between replicates but are one for all levels of each
            (`replicate`), are the same in all trainings (`never`), or differ in every one (`level`, as in open_lth).
        control_levels: levels at which the two controls stand; those above `levels` fall away.
        control_rewind_step: the rewind step whose masks the controls take.
        path_points: points on each linear path, both ends included.
        seed: everything random follows from it.
        grids: what the experiments vary; its fields are set like the setting's own.
        main: values of the setting and its grids under which `--experiments main` shows each paper's main finding.
        sources: field name to where its number comes from.
    """

    name: str
    scale: str
    title: str
    paper: str
    source: Digits | CIFAR10 | MNIST | SyntheticImages | None
    classes: int
    channels: int
    train_count: int
    test_count: int
    engine: Literal["resident", "streaming"]
    train_size: int
    eval_size: int
    model: str
    batch_size: int
    steps: int
    schedule: Literal["step", "cosine"]
    lr: float
    levels: int
    rewind_steps: tuple[int, ...]
    replicates: int
    control_levels: tuple[int, ...]
    control_rewind_step: int
    eval_ratio: float = 224 / 256
    eval_interpolation: Literal["bilinear", "area"] = "bilinear"
    padding: int = 0
    flip: bool = False
    milestones: tuple[int, ...] = ()
    lr_factor: float = 10.0
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    decoupled_weight_decay: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = 1
    initialization: Initialization = "torch"
    norm_scale: NormScale = "ones"
    techniques: Literal["none", "mild"] = "none"
    micro_batches: int = 1
    rewound_momentum: Literal["zero", "restored"] = "zero"
    compile: bool = False
    fraction: float = 0.2
    scope: Literal["global", "layerwise"] = "global"
    reshuffle: Literal["never", "replicate", "level"] = "replicate"
    path_points: int = 11
    dense_replicates: int = 0
    seed: int = 0
    grids: Grids = field(default_factory=Grids)
    main: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def recipe(self) -> Recipe:
        """The hyperparameters of each training."""
        names = {f.name for f in dataclasses.fields(Recipe)} - {"schedule", "techniques", "optimizer"}
        schedule = Schedule(self.schedule, self.lr, self.milestones, self.lr_factor, self.warmup_steps)
        values = {name: getattr(self, name) for name in names}
        return Recipe(**values, schedule=schedule, techniques=TECHNIQUES[self.techniques])

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.train_count // self.batch_size

    def check(self) -> "Setting":
        """The setting itself, without controls above its levels, every value of its field's type: equal settings give
        equal stages, whether a rate was written 1 or 1.0.

        Raises:
            SettingError: a value that cannot be run or has another type, named.
        """
        return self._typed()._checked()

    def _typed(self) -> "Setting":
        kinds = _kinds(self)
        values = {name: _typed(name, getattr(_owner(self, name), name), kind) for name, kind in kinds.items()}
        return self._replaced(values)

    def _checked(self) -> "Setting":
        check_fraction(self.fraction)
        for name in ("levels", "steps", "batch_size", "micro_batches", "replicates", "threads"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in ("train_size", "eval_size"):
            if not 1 <= getattr(self, name) <= _LARGEST_SIDE:
                raise SettingError(f"{name} is {getattr(self, name)}; expected 1 to {_LARGEST_SIDE} pixels")
        for name in ("lr", "lr_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}; expected a positive number")
        for name in ("momentum", "weight_decay", "warmup_steps", "padding", "seed", "dense_replicates"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}; expected zero or more")
        for name in ("replicates", "dense_replicates"):
            if getattr(self, name) > _MOST_REPLICATES:
                raise SettingError(f"{name} is {getattr(self, name):,}; expected {_MOST_REPLICATES:,} at most")
        if self.momentum >= 1:
            raise SettingError(f"momentum is {self.momentum}; expected less than 1")
        if self.padding > self.train_size:
            raise SettingError(f"padding is {self.padding}, more than the image's {self.train_size} pixels")
        self._check_schedule()
        sides = [self.train_size, self.eval_size]
        if TECHNIQUES[self.techniques].progressive_resizing:
            sides.append(training_side(self.train_size, 0, self.steps))
        for side in sides:
            check_model(self.model, self.channels, side)
        if self.batch_size > self.train_count:
            raise SettingError(f"batch_size is {self.batch_size}, more than the {self.train_count} training images")
        if self.batch_size % self.micro_batches:
            raise SettingError(f"micro_batches is {self.micro_batches}: {self.batch_size} images are no multiple of it")
        if not self.rewind_steps:
            raise SettingError("rewind_steps is empty; expected at least one step, such as 0")
        if len(set(self.rewind_steps)) < len(self.rewind_steps):
            raise SettingError(f"rewind_steps {list(self.rewind_steps)} names a step twice")
        for step in self.rewind_steps:
            check_rewind_step(step, self.steps)
        if not 3 <= self.path_points <= _MOST_POINTS:
            raise SettingError(
                f"path_points is {self.path_points}; expected 3, the two ends and one between, to {_MOST_POINTS}"
            )
        if self.levels > MOST_LEVELS:
            raise SettingError(f"levels is {self.levels:,}; expected 1 to {MOST_LEVELS:,}")
        if any(level < 1 for level in self.control_levels):
            raise SettingError(f"control_levels {list(self.control_levels)} holds one below 1; level 0 is not pruned")
        if self.control_rewind_step not in self.rewind_steps:
            return dataclasses.replace(self, control_rewind_step=max(self.rewind_steps)).check()
        levels = tuple(level for level in self.control_levels if 1 <= level <= self.levels)
        grids = self.grids.check().within(self)
        checked = dataclasses.replace(self, control_levels=levels, grids=grids)
        checked._check_weights_left()
        return checked

    @property
    def prunable_weights(self) -> list[int]:
        """How many weights each prunable layer of the network has."""
        return [math.prod(s) for s in prunable_shapes(self.model, self.classes, self.channels).values()]

    def _check_weights_left(self) -> None:
        chain = self.grids.variant_levels or max(self.control_levels, default=0)
        schedules = {
            "levels": (self.levels, self.fraction, self.scope),
            "variant_levels": (chain * ("layerwise" in self.grids.variants), self.fraction, "layerwise"),
        }
        sizes = self.prunable_weights
        for name, (levels, fraction, scope) in schedules.items():
            if weights_left(sizes, fraction, levels, scope) < 1:
                raise SettingError(
                    f"{name} is {levels}: pruning {fraction:.4g} of the weights so often leaves none of the "
                    f"{sum(sizes):,} of {self.model}; expected fewer levels or a smaller fraction"
                )

    def _check_schedule(self) -> None:
        ascending = list(self.milestones) == sorted(set(self.milestones))
        if self.schedule == "step" and not (ascending and all(0 < m < self.steps for m in self.milestones)):
            raise SettingError(
                f"milestones {list(self.milestones)} are not increasing steps within a training of {self.steps}; "
                "give others, such as milestones=" + f"{self.steps // 2},{self.steps * 3 // 4}"
            )
        if self.warmup_steps >= self.steps:
            raise SettingError(f"warmup_steps is {self.warmup_steps}; expected less than the {self.steps} steps")

    def with_values(self, assignments: Iterable[str]) -> "Setting":
        """The setting with fields replaced, of itself or its grids, each given as `name=value`; steps may be written
        `500it` or `4ep`.

        Raises:
            SettingError: an unknown name (the nearest are offered), a value of another type, a step past the end.
        """
        values: dict[str, Any] = {}
        kinds = _kinds(self)
        for assignment in assignments:
            name, equals, text = assignment.partition("=")
            if not equals:
                raise SettingError(f"--set {assignment!r} is not understood; expected name=value, such as lr=0.1")
            if name not in kinds:
                raise _unknown(self, name)
            if name in values:
                raise SettingError(f"--set {name} is given twice; expected one value")
            values[name] = _parse(name, text, kinds[name], values.get("batch_size", self.batch_size), self.train_count)
        return self.changed(**values)

    def changed(self, **values: Any) -> "Setting":
        """The setting with fields replaced, of itself or its grids; `grids` itself may be one of them.

        Raises:
            SettingError: an unknown name (the nearest are offered), a step past the end, a level above the last. What
                else the values are `check` sees.
        """
        changed = self._replaced(values)
        check_room(values, changed)
        return changed

    def _replaced(self, values: Mapping[str, Any]) -> "Setting":
        names = {f.name for f in dataclasses.fields(Grids)}
        for name in values:
            if name not in names and name not in self.__dataclass_fields__:
                raise _unknown(self, name)
        grids = values.get("grids", self.grids)
        grids = dataclasses.replace(grids, **{name: value for name, value in values.items() if name in names})
        own = {name: value for name, value in values.items() if name not in names and name != "grids"}
        return dataclasses.replace(self, grids=grids, **own)


def check_rewind_step(step: int, steps: int) -> None:
    """Raises a SettingError unless `step` lies within a training of `steps`."""
    if not isinstance(step, numbers.Integral) or step < 0:
        raise SettingError(f"rewind step {step!r} is no step of a training; expected a whole number from 0")
    if step >= steps:
        raise SettingError(f"rewind step {step} is at or past the end of training ({steps} steps); expected less")


def nearest(name: str, names: Iterable[str]) -> str:
    """'; did you mean a or b?', or all names where none is near."""
    names = list(names)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(close)}?" if close else f"; expected one of {', '.join(names)}"


def _kinds(setting: Setting) -> dict[str, Any]:
    """The type of each value that may be set, of the setting and its grids."""
    own = (*dataclasses.fields(setting), *dataclasses.fields(setting.grids))
    return {f.name: f.type for f in own if f.name not in _FIXED}


def _owner(setting: Setting, name: str) -> Setting | Grids:
    return setting if name in setting.__dataclass_fields__ else setting.grids


def _unknown(setting: Setting, name: str) -> SettingError:
    return SettingError(f"setting {setting.name} has no value {name!r}{nearest(name, _kinds(setting))}")


def _typed(name: str, value: Any, kind: Any) -> Any:
    """`value` as `kind`: a whole number for an int field, a float for a float field, a tuple for a list."""
    if get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise SettingError(f"{name} is {value!r}; expected several in a tuple, such as ({value!r},)")
        return tuple(_typed(name, item, get_args(kind)[0]) for item in value)
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


def _parse(name: str, text: str, kind: Any, batch_size: int, train_count: int) -> Any:
    def step(part: str) -> int:
        return parse_step(part, max(1, train_count // max(1, batch_size)))

    try:
        if get_origin(kind) is tuple:
            parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
            return tuple(step(part) if name in _STEPS else get_args(kind)[0](part) for part in parts)
        if get_origin(kind) is Literal:
            return _choice(name, text, get_args(kind))
        if kind is bool:
            return {"true": True, "false": False}[_choice(name, text.lower(), ("true", "false"))]
        if name in _STEPS:
            return step(text)
        return kind(text)
    except SettingError as error:
        raise SettingError(f"--set {name}={text}: {error}") from error
    except ValueError as error:
        several = (
            "numbers with commas between" if get_args(kind)[:1] == (float,) else "whole numbers with commas between"
        )
        expected = _EXPECTED.get(kind, several)
        raise SettingError(f"--set {name}={text}: expected {expected}") from error


def _choice(name: str, text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise SettingError(f"{name} is {text!r}; expected one of {', '.join(choices)}")
    return text
