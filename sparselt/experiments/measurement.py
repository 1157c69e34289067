"""A measurement: a stage whose result is wanted, and where its numbers stand in the table of results."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from sparselt.errors import SettingError
from sparselt.runs.stage import Stage, check_stages

Read = Callable[[Stage, str], dict[str, Any]]

_TRAINING = ("test_error", "test_loss", "train_loss")
_CONDITION = re.compile(r"[^\s=]+=\S+")
_PRUNE = ("prune", "adaptive_prune")
_EMPTY = "empty_layer"
_PATH = ("barrier", "max_error", "instability", "loss_barrier")


@dataclass(frozen=True)
class Measurement:
    """One stage's place in `results.csv`. A training's rows also name the layers that its mask's pruning left empty.

    Args:
        experiment, variant, replicate, rewind_step, level, to_level: the row's columns; None is an empty cell.
        stage: a training, the path between two trainings, or any stage that writes `values.json`: a list of numbers,
            each with its metric and, where it differs, level, to_level, density, position and position_2.
        network: the training whose density the rows state, where the stage's own numbers do not; None if it is `stage`
            itself.
        condition: what else sets these rows apart, as `name=value`, several with spaces between: `batch_size=256`.
        networks: the trainings of levels 0, 1, …, where the stage's numbers are of several; instead of `network`.
        metrics: those of the stage's that are wanted; empty: all.

    Raises:
        TypeError: a stage that is none, such as the `Need` that `lab.mask` gives.
        SettingError: a column that is none: a name that is empty, a number that is not whole or below 0, a condition
            that is not `name=value`.
    """

    experiment: str
    variant: str
    replicate: int
    rewind_step: int | None
    level: int
    stage: Stage
    to_level: int | None = None
    network: Stage | None = None
    condition: str = ""
    networks: tuple[Stage, ...] = ()
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        networks = self.networks if self.network is None else (self.network,)
        check_stages(f"Measurement({self.experiment!r}, …)", self.stage, *networks)
        for name in ("experiment", "variant"):
            if not (isinstance(getattr(self, name), str) and getattr(self, name)):
                raise SettingError(f"Measurement: {name} is {getattr(self, name)!r}; expected a name")
        words = self.condition.split(" ") if isinstance(self.condition, str) else [""]
        if self.condition != "" and not all(_CONDITION.fullmatch(word) for word in words):
            raise SettingError(
                f"Measurement({self.experiment!r}, …): condition is {self.condition!r}; expected name=value, several "
                "with a space between"
            )
        for name in ("replicate", "level", "rewind_step", "to_level"):
            number = getattr(self, name)
            if number is None and name in ("rewind_step", "to_level"):
                continue
            if not isinstance(number, Integral) or number < 0:
                raise SettingError(
                    f"Measurement({self.experiment!r}, …): {name} is {number!r}; expected a whole number from 0"
                )

    @property
    def stages(self) -> list[Stage]:
        """What has to have run before `rows` can be read."""
        return [self.stage, *self.networks] if self.network is None else [self.stage, self.network]

    def rows(self, read: Read) -> Iterator[dict[str, Any]]:
        """The rows, without setting and scale; `read` returns a JSON output of a finished stage."""
        place = {
            "experiment": self.experiment,
            "variant": self.variant,
            "replicate": self.replicate,
            "rewind_step": self.rewind_step,
            "level": self.level,
            "to_level": self.to_level,
            "condition": self.condition,
        }
        if self.network is not None or self.stage.kind == "train":
            place["density"] = read(self.network or self.stage, "measurements.json")["density"]
        densities = [read(network, "measurements.json")["density"] for network in self.networks]
        for value in _values(self.stage, read):
            if densities:
                place["density"] = densities[value["level"]]
            if not self.metrics or value["metric"] in self.metrics:
                yield place | value
        if self.stage.kind == "train":
            for value in _empty_layers(self.stage, read):
                condition = " ".join(filter(None, (self.condition, value["condition"])))
                yield place | value | {"condition": condition}


def _empty_layers(network: Stage, read: Read) -> Iterator[Mapping[str, Any]]:
    """What the pruning that made a training's mask says of layers that it left empty."""
    mask = network.needs.get("mask")
    while mask is not None and mask.stage.kind == "random_mask":
        mask = mask.stage.needs["mask"]  # as many live weights in each layer
    if mask is not None and "values.json" in mask.stage.outputs and mask.stage.kind in _PRUNE:
        for value in read(mask.stage, "values.json")["values"]:
            if value["metric"] == _EMPTY:
                yield value


def _values(stage: Stage, read: Read) -> Iterator[Mapping[str, Any]]:
    """The numbers of a finished stage, each with its metric and what of its place it knows itself."""
    if stage.kind == "train":
        measured = read(stage, "measurements.json")
        yield from ({"metric": metric, "value": measured[metric]} for metric in _TRAINING)
    elif stage.kind == "path":
        path = read(stage, "path.json")
        for position, error, loss in zip(path["positions"], path["errors"], path["losses"], strict=True):
            yield {"metric": "path_error", "value": error, "position": position}
            yield {"metric": "path_loss", "value": loss, "position": position}
        yield from ({"metric": metric, "value": path[metric]} for metric in _PATH if metric in path)
    else:
        yield from (value for value in read(stage, "values.json")["values"] if value["metric"] != _EMPTY)
