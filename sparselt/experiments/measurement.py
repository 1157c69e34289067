"""A measurement: a stage whose result is wanted, and where its numbers stand in the table of results."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sparselt.runs.stage import Stage

Read = Callable[[Stage, str], dict[str, Any]]


@dataclass(frozen=True)
class Measurement:
    """One stage's place in `results.csv`.

    Args:
        experiment, variant, replicate, rewind_step, level, to_level: the row's columns; None is an empty cell.
        stage: a training, or the path between two trainings.
        network: the training whose density the rows state; None if it is `stage` itself.
    """

    experiment: str
    variant: str
    replicate: int
    rewind_step: int | None
    level: int
    stage: Stage
    to_level: int | None = None
    network: Stage | None = None

    @property
    def stages(self) -> list[Stage]:
        """What has to have run before `rows` can be read."""
        return [self.stage] if self.network is None else [self.stage, self.network]

    def rows(self, read: Read) -> Iterator[dict[str, Any]]:
        """The rows, without setting and scale; `read` returns a JSON output of a finished stage."""
        density = read(self.network or self.stage, "measurements.json")["density"]

        def row(metric: str, value: float, position: float | None = None) -> dict[str, Any]:
            return {
                "experiment": self.experiment,
                "variant": self.variant,
                "replicate": self.replicate,
                "rewind_step": self.rewind_step,
                "level": self.level,
                "density": density,
                "metric": metric,
                "value": value,
                "to_level": self.to_level,
                "position": position,
            }

        if self.stage.kind == "path":
            path = read(self.stage, "path.json")
            for position, error, loss in zip(path["positions"], path["errors"], path["losses"], strict=True):
                yield row("path_error", error, position)
                yield row("path_loss", loss, position)
            yield row("barrier", path["barrier"])
            yield row("max_error", path["max_error"])
            return
        measured = read(self.stage, "measurements.json")
        for metric in ("test_error", "test_loss", "train_loss"):
            yield row(metric, measured[metric])
