"""A measurement: a stage whose numbers are wanted, and their place in the table of results."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from sparselt.errors import SettingError
from sparselt.stages.masks import MakesMask
from sparselt.stages.paths import EvaluatePath
from sparselt.stages.stage import ReadJson, Stage, StageFile
from sparselt.stages.train import Train
from sparselt.stages.values import Value

_CONDITION = re.compile(r"[^\s=]+=\S+")


@dataclass(frozen=True)
class Measurement:
    """One stage's place in `results.csv`. A training's rows also name the layers that its mask's pruning left empty.

    Args:
        experiment, variant, replicate, rewind_step, level, to_level: the row's columns; None is an empty cell.
        stage: any stage that measures something, see `sparselt.stages.stage.Stage.values`.
        network: the training whose density the rows get if the stage's numbers have none; None: `stage` itself.
        condition: what else sets these rows apart, as `name=value`, several with spaces between: `batch_size=256`.
        networks: instead of `network`, the trainings of levels 0, 1, … if the stage's numbers are of several levels.
        metrics: the wanted metrics of the stage; empty: all.

    Raises:
        TypeError: an argument that is not a Stage, such as the file that `lab.mask` gives.
        SettingError: an empty name; a number that is not whole or is below 0; a condition that is not `name=value`.
    """

    experiment: str
    variant: str
    replicate: int
    rewind_step: int | None
    level: int
    stage: Stage
    to_level: int | None = None
    network: Train | None = None
    condition: str = ""
    networks: tuple[Train, ...] = ()
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        where = f"Measurement({self.experiment!r}, …)"
        check_stages(where, self.stage, *self._networks)
        for name in ("experiment", "variant"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise SettingError(f"Measurement: {name} is {getattr(self, name)!r}; expected a name")
        words = self.condition.split(" ") if isinstance(self.condition, str) else [""]
        if self.condition != "" and not all(_CONDITION.fullmatch(word) for word in words):
            raise SettingError(
                f"{where}: condition is {self.condition!r}; expected name=value, several with a space between"
            )
        for name in ("replicate", "level", "rewind_step", "to_level"):
            number = getattr(self, name)
            if number is None and name in ("rewind_step", "to_level"):
                continue
            if not isinstance(number, Integral) or number < 0:
                raise SettingError(f"{where}: {name} is {number!r}; expected a whole number from 0")

    @property
    def stages(self) -> list[Stage]:
        """The stages that have to run before `rows` can be read."""
        return [stage.want(stage.measured) for stage in (self.stage, *self._networks)]

    @property
    def cells(self) -> tuple:
        """The place of its numbers, which no two measurements of an experiment may share."""
        place = (self.variant, self.replicate, self.rewind_step, self.level, self.to_level, self.condition)
        # The numbers of other kinds of stages have further columns of their own, by which they may differ.
        alike = isinstance(self.stage, Train | EvaluatePath)
        return (self.experiment, *place, self.stage.kind, "" if alike else self.stage.key, self.metrics)

    def rows(self, read: ReadJson) -> Iterator[dict[str, Any]]:
        """The rows, without setting and scale. `read` returns the content of a stage's JSON file."""
        place = {
            "experiment": self.experiment,
            "variant": self.variant,
            "replicate": self.replicate,
            "rewind_step": self.rewind_step,
            "level": self.level,
            "to_level": self.to_level,
            "condition": self.condition,
        }
        network = self.network or self.stage
        if isinstance(network, Train):
            place["density"] = read(network.measured).density
        densities = [read(network.measured).density for network in self.networks]
        for value in self.stage.values(read):
            if densities:
                place["density"] = densities[value.level or 0]
            if not self.metrics or value.metric in self.metrics:
                yield place | _cells(value)
        if isinstance(self.stage, Train):
            for value in _empty_layers(self.stage, read):
                condition = " ".join(filter(None, (self.condition, value.condition)))
                yield place | _cells(value) | {"condition": condition}

    @property
    def _networks(self) -> tuple[Train, ...]:
        return self.networks if self.network is None else (self.network,)


class NotAStageError(SettingError, TypeError):
    """An argument that is not a Stage."""


def check_stages(taker: str, *found: object) -> None:
    """Raises an error that names `taker` unless all are stages. A mask or a checkpoint is only a file of a stage."""
    for value in found:
        if not isinstance(value, Stage):
            raise NotAStageError(
                f"{taker} takes a Stage and got a {type(value).__name__}; lab.dense, ticket, rewound, training "
                "and path give one, while lab.mask, checkpoint, pruned_mask, random_mask and shuffled_weights give a "
                "StageFile, one file of a stage: its .stage is what made it"
            )


def _cells(value: Value) -> dict[str, Any]:
    return {name: item for name in Value.__slots__ if (item := getattr(value, name)) is not None}


def _empty_layers(network: Train, read: ReadJson) -> Iterator[Value]:
    """The layers that pruning left empty in a training's mask, if its stage notes them."""
    mask: StageFile | None = network.mask
    if mask is not None and isinstance(mask.stage, MakesMask):
        yield from mask.stage.empty_layers(read)
