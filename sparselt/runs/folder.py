"""What a finished run holds, by the names of the papers: results, weights, masks and figures."""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparselt.errors import SettingError, StoreError, naming_extras
from sparselt.runs.networks import NetworkRow, read_networks
from sparselt.runs.store import is_intact

if TYPE_CHECKING:
    import pandas
    import torch

    from sparselt.masks import Mask
    from sparselt.runs.ticket import Ticket


@dataclass(frozen=True)
class Picture:
    """A figure of a run. A notebook shows it.

    png, svg: its files.
    """

    png: Path
    svg: Path

    def _repr_png_(self) -> bytes:
        return self.png.read_bytes()


class Run:
    """A run's folder, opened for reading: `sparselt.runs.open(folder)`, `sparselt.reproduce.run(…)`. It is a path, too:
    `Path(run)`.

    Args:
        folder: with results.csv, record.json and networks.csv.

    Raises:
        StoreError: it is not a run's folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        try:
            self.record: dict[str, Any] = json.loads((self.folder / "record.json").read_text())
            str(self.record["setting"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{folder} is not the folder of a finished run: its record.json cannot be read ({error}); "
                "`sparselt runs list OUT` names the runs in OUT"
            ) from error

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    @naming_extras()
    def results(self) -> "pandas.DataFrame":
        """results.csv: one measurement a row."""
        import pandas

        try:
            whole = {name: "Int64" for name in ("replicate", "rewind_step", "level", "to_level")}
            table = pandas.read_csv(self.folder / "results.csv", dtype={**whole, "condition": str})
            if len(table) != self.record.get("rows", len(table)):
                raise ValueError(f"it has {len(table)} measurements, and record.json says {self.record['rows']}")
        except (OSError, ValueError) as error:
            raise StoreError(f"{self.folder}/results.csv cannot be read ({error}); run the command again") from error
        return table

    @cached_property
    def networks(self) -> list[NetworkRow]:
        """Every trained network, with the places of its files."""
        return read_networks(self.folder)

    def weights(
        self,
        replicate: int,
        rewind_step: int | None = None,
        level: int | None = None,
        variant: str = "imp",
        experiment: str | None = None,
        condition: str | None = None,
    ) -> "dict[str, torch.Tensor]":
        """Weights and buffers by name, on the CPU. They load into the run's network with `load_state_dict`.

        Args:
            replicate, level: counted from 0; level 0 is the dense network.
            rewind_step: in steps. May be left out where one network serves all rewind steps, as a rule at level 0.
            variant: as in results.csv.
            experiment, condition: where the first ones fit several networks.

        Raises:
            StoreError: no network fits, or several do, which are named; the file is missing or damaged.
            SettingError: a replicate, rewind step or level that is no whole number.
        """
        from safetensors.torch import load_file

        return load_file(
            self._intact(self.network(replicate, rewind_step, level, variant, experiment, condition).weights)
        )

    def mask(
        self,
        replicate: int,
        rewind_step: int | None = None,
        level: int | None = None,
        variant: str = "imp",
        experiment: str | None = None,
        condition: str | None = None,
    ) -> "Mask | None":
        """The mask of a network, None for a dense one. Arguments and errors as for `weights`."""
        from sparselt.masks import Mask

        path = self.network(replicate, rewind_step, level, variant, experiment, condition).mask
        return Mask.load(self._intact(path)) if path else None

    def network(
        self,
        replicate: int,
        rewind_step: int | None = None,
        level: int | None = None,
        variant: str = "imp",
        experiment: str | None = None,
        condition: str | None = None,
    ) -> NetworkRow:
        """The one network that fits. Arguments and errors as for `weights`."""
        for name, number in (("replicate", replicate), ("rewind_step", rewind_step), ("level", level)):
            if not isinstance(number, int) and not (number is None and name == "rewind_step"):
                raise SettingError(f"{name} is {number!r}; expected a whole number; {self.there(variant)}")
        fitting = self.fitting(replicate, rewind_step, level, variant, experiment, condition)
        step = "" if rewind_step is None else f"rewind step {rewind_step}, "
        wanted = f"replicate {replicate}, {step}level {level}, variant {variant}"
        others = {"experiment": experiment, "condition": condition}
        wanted += "".join(f", {name} {value}" for name, value in others.items() if value is not None)
        if not fitting:
            raise StoreError(f"{self.folder} has no network of {wanted}; {self.there(variant)}")
        networks = list({row.weights: row for row in reversed(fitting)}.values())[::-1]
        if len(networks) > 1:
            columns = ("rewind_step", "experiment", "condition")
            apart = [name for name in columns if len({getattr(row, name) for row in networks}) > 1]
            choices = [", ".join(f"{name}={getattr(row, name)!r}" for name in apart) for row in networks]
            raise StoreError(
                f"{self.folder} has several networks of {wanted}; choose one by {'; '.join(choices)} (in a terminal by "
                f"options: {' '.join('--' + name.replace('_', '-') for name in apart)})"
            )
        return fitting[0]

    def ticket(
        self,
        replicate: int,
        rewind_step: int | None = None,
        level: int | None = None,
        variant: str = "imp",
        experiment: str | None = None,
        condition: str | None = None,
    ) -> "Ticket":
        """A trained network with its weights, mask and measurements, for `Ticket.export`. Arguments and errors as for
        `weights`.
        """
        from sparselt.runs.ticket import Ticket

        return Ticket(self, self.network(replicate, rewind_step, level, variant, experiment, condition))

    @property
    def figures(self) -> list[str]:
        """The names of the run's figures."""
        return sorted(path.stem for path in (self.folder / "figures").glob("*.png"))

    def figure(self, name: str) -> Picture:
        """A figure by its name. StoreError if the run has none of that name; `figures` has the names."""
        if name not in self.figures:
            raise StoreError(f"{self.folder} has no figure {name!r}; it has {', '.join(self.figures) or 'none'}")
        return Picture(*(self.folder / "figures" / f"{name}.{kind}" for kind in ("png", "svg")))

    def fitting(
        self,
        replicate: int | None = None,
        rewind_step: int | None = None,
        level: int | None = None,
        variant: str | None = None,
        experiment: str | None = None,
        condition: str | None = None,
    ) -> list[NetworkRow]:
        """The networks that fit; None fits all. Level 0 of IMP is the dense network, where no other was trained."""
        asked = {"replicate": replicate, "level": level, "experiment": experiment, "condition": condition}
        asked = {name: value for name, value in asked.items() if value is not None}
        rows = [row for row in self.networks if all(getattr(row, name) == value for name, value in asked.items())]
        if rewind_step is not None:
            rows = [row for row in rows if row.rewind_step in (rewind_step, None)]
        if variant is None:
            return rows
        found = [row for row in rows if row.variant == variant]
        return found or [row for row in rows if (variant, row.variant, level) == ("imp", "dense", 0)]

    def _intact(self, name: str) -> Path:
        try:
            path = self.place(name)
            intact = is_intact(path)
        except OSError as error:
            raise StoreError(
                f"{self.folder}/networks.csv names a file that cannot be read ({error.strerror}): {name:.200}; run the "
                "run's command again"
            ) from error
        if not intact:
            raise StoreError(f"{path} is missing or damaged; run the run's command again, which makes it anew")
        return path

    def place(self, name: str) -> Path:
        """The path of a file of networks.csv. StoreError if it is not in the folder of all results, or in its store,
        which may be a link."""
        # The folder itself may be a link: from where its store is, or to there.
        found = [self._place(folder, name) for folder in (self.folder.resolve(), self.folder.absolute())]
        places = [path for path in found if path]
        if not places:
            path = self.folder / name
            raise StoreError(f"{self.folder}/networks.csv names a file elsewhere, {path}; run the run's command again")
        return next((path for path in places if path.exists()), places[0])

    @staticmethod
    def _place(folder: Path, name: str) -> Path | None:
        """The path of a file as a run in `folder` names it; None if it is neither beside it nor in the store."""
        path, out = Path(os.path.normpath(folder / name)), folder.parent
        if "\0" in name or not any(path.resolve().is_relative_to(place.resolve()) for place in (out, out / "store")):
            return None
        return path.resolve()

    def there(self, variant: str) -> str:
        """What there is of a variant, or of all variants if there is nothing of it."""
        rows = [row for row in self.networks if row.variant == variant]
        whose = f" of variant {variant}" if rows else ""

        def values(name: str) -> str:
            found = {getattr(row, name) for row in rows or self.networks} - {None}
            return " · ".join(map(str, sorted(found)))

        return (
            f"the run has replicates {values('replicate')}, counted from 0, rewind steps {values('rewind_step')} and "
            f"levels {values('level')}{whose}; variants: {' · '.join(sorted({row.variant for row in self.networks}))}"
        )
