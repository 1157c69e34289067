"""`networks.csv`: where the weights and the mask of every network of a run are."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path

from sparselt.errors import StoreError
from sparselt.files import replacing


@dataclass(frozen=True)
class NetworkRow:
    """One trained network of a run.

    experiment to level: as in results.csv.
    weights, mask: paths of the files, from the run's folder; mask is empty if the network is dense.
    """

    experiment: str
    variant: str
    condition: str
    replicate: int
    rewind_step: int | None
    level: int
    weights: str
    mask: str


_FILE = "networks.csv"
_COLUMNS = tuple(field.name for field in fields(NetworkRow))


def write_networks(rows: Iterable[NetworkRow], folder: Path) -> None:
    """Writes the file, whole or not at all."""
    with replacing(folder / _FILE) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(vars, rows))


def read_networks(folder: Path) -> list[NetworkRow]:
    """The rows of a run's folder. StoreError for a file that is missing or malformed."""
    path = folder / _FILE
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != _COLUMNS:
                raise ValueError(f"its columns are {reader.fieldnames}")
            return [_row(cells) for cells in reader]
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read ({error.strerror}); run the run's command again, which makes it from the store"
        ) from error
    except (ValueError, TypeError, csv.Error) as error:
        raise StoreError(f"{path} is damaged ({error}); run the run's command again, which makes it anew") from error


def _row(cells: dict[str, str]) -> NetworkRow:
    if None in cells or None in cells.values():
        raise ValueError("a row has more or fewer cells than there are columns")
    return NetworkRow(
        experiment=cells["experiment"],
        variant=cells["variant"],
        condition=cells["condition"],
        replicate=int(cells["replicate"]),
        rewind_step=int(cells["rewind_step"]) if cells["rewind_step"] else None,
        level=int(cells["level"]),
        weights=cells["weights"],
        mask=cells["mask"],
    )
