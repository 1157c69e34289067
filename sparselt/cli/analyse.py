"""`sparselt analyse`: the papers' questions, asked of networks and masks that were made elsewhere."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from sparselt.errors import SettingError

if TYPE_CHECKING:
    from sparselt.analysis.tickets import TicketPlane, Tickets

_LMC = 0.02  # Linear Mode Connectivity (Frankle et al. 2020) calls an instability below 2 points stable


@dataclass(frozen=True)
class Analyse:
    """Masks and networks made elsewhere: overlap against chance, distances, errors, barriers, flatness."""

    tickets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="TICKET")]
    """Networks or masks in order, such as the levels of a run: a checkpoint of open_lth, TurboPrune, fasterai or
    torch.nn.utils.prune, a mask file, WEIGHTS+MASK, or a folder of open_lth."""
    model: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """The network that they belong to, to evaluate them: a name, or a function of yours as package.module:function."""
    data: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Betons to evaluate them on, of `sparselt data write`."""
    pairs: Literal["successive", "all"] = "successive"
    """Which networks are compared with each other."""
    points: Annotated[int, tyro.conf.arg(metavar="N")] = 11
    """Points on each line between two networks, with both ends."""
    size: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Side of the centre crop, for betons of pictures."""
    hessian: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Training images on which the Hessian's largest eigenvalues are computed; 0: not."""
    plane: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """With three networks: errors on the plane through them, as a figure (FILE.png, .svg) and numbers (FILE.csv)."""
    plane_points: Annotated[int, tyro.conf.arg(metavar="N")] = 25
    """Points on each side of the plane's grid."""
    json: bool = False
    """Print JSON, for scripts."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code."""
        from sparselt.analysis.tickets import compare_tickets, ticket_plane
        from sparselt.masks.checkpoints import read_ticket

        if (self.model is None) != (self.data is None):
            raise SettingError("--model and --data go together: give both to evaluate the networks, or neither")
        if self.hessian and self.model is None:
            raise SettingError("--hessian needs a network and images: give --model and --data, too")
        if self.plane is not None and (self.model is None or len(self.tickets) != 3):
            raise SettingError(
                f"--plane goes through three networks, on images; {len(self.tickets)} given: give three tickets, "
                "--model and --data"
            )
        if self.plane is not None and not self.plane.parent.is_dir():
            raise SettingError(f"--plane: {self.plane.parent} is not a folder; make it, or give another path")
        tickets = [read_ticket(place) for place in self.tickets]
        options: dict[str, Any] = {"pairs": self.pairs, "points": self.points}
        if self.model is not None and self.data is not None:
            options |= self._evaluation(self.model, self.data)
        found, plane = compare_tickets(tickets, **options), None
        if self.plane is not None:
            plane = ticket_plane(tickets, options["model"], options["batches"], self.plane_points)
            _write_plane(self.plane, plane)
        if self.json:
            of_plane = {} if plane is None else {"plane": _numbers(plane)}
            print(json.dumps({"tickets": self.tickets, **_plain(found), **of_plane}, indent=1))
        else:
            _show(self.tickets, found)
            if plane is not None and self.plane is not None:
                print(_told(plane, self.plane))
        return 0

    def _evaluation(self, name: str, folder: Path) -> dict[str, Any]:
        import numpy as np

        from sparselt.data import eval_loader, open_dataset
        from sparselt.data.loaders import eval_transform
        from sparselt.models import build_model, check_model

        data = open_dataset(folder)
        shape = data.manifest.splits["test"].shape
        pictures = data.manifest.field == "rgb_image"
        if pictures and self.size is None:
            raise SettingError(f"{folder} holds pictures: give --size, the side of the centre crop, such as --size 224")
        side = self.size if pictures or shape is None else shape[1]
        channels = 3 if pictures or shape is None else shape[0]
        classes = data.manifest.classes
        check_model(name, channels, side, classes)
        crop = {"size": side, "ratio": 224 / 256, "interpolation": "bilinear"} if pictures else None
        transform = eval_transform(data.manifest, crop)
        options = {
            "batches": eval_loader(data, transform),
            "model": build_model(name, classes=classes, channels=channels, seed=0),
        }
        if self.hessian:
            count = data.manifest.splits["train"].count
            if not 1 <= self.hessian <= count:
                raise SettingError(f"--hessian is {self.hessian}; expected 1 to {count:,}, the training images")
            chosen = np.linspace(0, count - 1, self.hessian).astype(np.int64)
            options["training_batches"] = eval_loader(data, transform, split="train", indices=chosen)
        return options


def _plain(found: "Tickets") -> dict[str, Any]:
    plain = asdict(found)
    for pair, place in zip(plain["pairs"], found.pairs, strict=True):
        if place.path is not None:
            pair["path"] |= {"barrier": place.path.barrier, "instability": place.path.instability}
    return plain


def _write_plane(path: Path, plane: "TicketPlane") -> None:
    from sparselt.errors import naming_extras
    from sparselt.files import naming_errors
    from sparselt.report.drawing import figure_style, save_drawings
    from sparselt.report.planes import tickets_drawing
    from sparselt.report.results import write_text

    lines = [
        f"{x},{y},{plane.errors[row, column]},{plane.losses[row, column]}"
        for row, y in enumerate(plane.y.tolist())
        for column, x in enumerate(plane.x.tolist())
    ]
    with naming_extras(), naming_errors(f"plane {path}"), figure_style():
        save_drawings(path.parent, {_stem(path): tickets_drawing(plane)})
        write_text(path.parent / f"{_stem(path)}.csv", "\n".join(["x,y,error,loss", *lines]) + "\n")


def _stem(path: Path) -> str:
    return path.stem if path.suffix in (".png", ".svg", ".csv") else path.name


def _numbers(plane: "TicketPlane") -> dict[str, Any]:
    grids = {name: getattr(plane, name).tolist() for name in ("x", "y", "errors", "losses")}
    return {"points": plane.axes.points, "corner_errors": plane.corner_errors, "mean_error": plane.mean_error, **grids}


def _told(plane: "TicketPlane", path: Path) -> str:
    lowest = min(error for error in [*plane.errors.flat, math.inf] if not math.isnan(error))
    row, column = (int(place[0]) for place in (plane.errors == lowest).nonzero())
    stands = ", ".join(f"{number} at ({x:.3g}, {y:.3g})" for number, (x, y) in enumerate(plane.axes.points))
    return (
        f"Plane: {stands}, in L2 distance. The mean of the three errs on {plane.mean_error:.2%}. Lowest error on the "
        f"grid: {lowest:.2%}, at ({plane.x[column]:.3g}, {plane.y[row]:.3g}).\n"
        f"{path.parent / _stem(path)}.png, .svg, .csv"
    )


def _show(names: Sequence[str], found: "Tickets") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)

    def table(*headings: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        made.add_column(headings[0])
        for heading in headings[1:]:
            made.add_column(heading, justify="right")
        return made

    def shown(number: float | None, form: str) -> str:
        return "–" if number is None else format(number, form)

    networks = table("", "weights", "error", "loss", "largest eigenvalues")
    for place, name in enumerate(names):
        spectrum = () if found.eigenvalues is None else found.eigenvalues[place]
        networks.add_row(
            f"{place}  {name}",
            shown(found.densities[place], ".2%"),
            shown(None if found.errors is None else found.errors[place], ".2%"),
            shown(None if found.losses is None else found.losses[place], ".4f"),
            " ".join(f"{value:.3g}" for value in spectrum) or "–",
        )
    console.print(networks)
    if found.pairs:
        masks = table("masks", "Jaccard", "chance", "by layer")
        weights = table("weights", "L2", "angle", "L2, shared", "angle, shared")
        lines = table("line between", "barrier", "instability", "")
        for pair in found.pairs:
            name, path = f"{pair.first} – {pair.second}", pair.path
            chances = pair.jaccard_chance, pair.jaccard_layerwise_chance
            masks.add_row(name, shown(pair.jaccard, ".3f"), *(shown(chance, ".3f") for chance in chances))
            distances = (pair.l2, ".3g"), (pair.angle, ".1f"), (pair.l2_shared, ".3g"), (pair.angle_shared, ".1f")
            weights.add_row(name, *(shown(number, form) for number, form in distances))
            if path is not None:
                points = (f"{100 * number:.1f}" for number in (path.barrier, path.instability))
                lines.add_row(name, *points, "stable" if path.instability < _LMC else "unstable")
        for of_pairs in (masks, weights, lines):
            if of_pairs.row_count:
                console.print(of_pairs)
    if (every := found.overlap) is not None:
        console.print(
            f"All masks together: union {every.union:.2%} of the weights (chance {every.union_chance:.2%}, by layer "
            f"{every.union_layerwise_chance:.2%}), intersection {every.intersection:.2%} (chance "
            f"{every.intersection_chance:.2%}, by layer {every.intersection_layerwise_chance:.2%})."
        )
    notes = [
        "Chance: random masks of these densities; by layer: of these densities in each layer, the honest baseline.",
        "L2 distance and angle (degrees) of all prunable weights, masked ones 0; shared: of those that live in both.",
    ]
    without = [name for name, density in zip(names, found.densities, strict=True) if density is None]
    if without:
        notes.append(
            f"No mask in {', '.join(without)}: taken as dense. If the mask stands in a file of its own, give "
            f"{without[0]}+MASK."
        )
    if found.errors is not None:
        notes.append(
            "Barrier (Paul et al. 2022, Def. A.1) and instability in points; stable: below 2 (Frankle et al. 2020)."
        )
    console.print("\n".join(notes))
