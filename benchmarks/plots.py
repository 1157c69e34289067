"""The figures of a run: time against sparsity, against size, and against K."""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparselt.benchmarks.table import short
from sparselt.files import write_bytes
from sparselt.report.drawing import COLOURS, GREY, figure_style, label_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "D", "v", "P", "X")
_AXES = {
    "density": "weights remaining, % (log scale)",
    "size": "{unit} (log scale)",
    "K": "K: {unit} at once",
}
_K = {"masked_sgd": "networks", "conv_bn": "networks", "interpolate": "weight sets"}


def save_plots(records: Sequence[Mapping], folder: Path, prefix: str, device: str) -> list[Path]:
    """Draws `<prefix>-<kernel>-against-<sweep>.png, .svg` for each kernel and sweep with two points or more.

    device: its name, for the titles.
    """
    written = []
    with style():
        for (kernel, sweep), panels in _panels(records).items():
            figure = _figure(kernel, sweep, panels, device, _rivals(records, kernel))
            written += save(figure, folder / f"{prefix}-{kernel}-against-{sweep}")
    return written


@contextmanager
def style() -> Iterator[None]:
    """The style of a report's figures, with small titles on the left."""
    import matplotlib

    with figure_style(), matplotlib.rc_context({"axes.titlesize": 10, "axes.titlelocation": "left"}):
        yield


def save(figure: "Figure", stem: Path) -> list[Path]:
    """Writes `<stem>.png` and `<stem>.svg`. Call it inside `style`."""
    image, drawing = io.BytesIO(), io.BytesIO()
    # Software, Date and Creator would make the bytes depend on the day and the version.
    figure.savefig(image, format="png", dpi=160, metadata={"Software": None})
    figure.savefig(drawing, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    for path, content in zip(paths, (image, drawing), strict=True):
        write_bytes(path, content.getvalue())
    return paths


def _panels(records: Sequence[Mapping]) -> dict[tuple[str, str], dict[str, list[Mapping]]]:
    """The panels of each kernel and sweep by title. A panel shows one case and clock."""
    found: dict[tuple[str, str], dict[str, list[Mapping]]] = {}
    for record in records:
        if record["sweep"]:
            clock = {"graph": ", as a CUDA graph", "events": ""}.get(record["clock"], "")
            density = "" if record["sweep"] == "density" else f", density {record['density']:g}"
            title = f"{record['case']}{density}{clock}"
            found.setdefault((record["kernel"], record["sweep"]), {}).setdefault(title, []).append(record)
    for key in list(found):
        found[key] = {t: panel for t, panel in found[key].items() if len({r[key[1]] for r in panel}) > 1}
        if not found[key]:
            del found[key]
    return found


def _rivals(records: Sequence[Mapping], kernel: str) -> list[str]:
    """The competitors to draw beside ours: those with two points or more."""
    points = Counter(r["who"] for r in records if r["kernel"] == kernel and r["sweep"] and not r["ours"])
    return [who for who, count in points.items() if count > 1]


def _figure(
    kernel: str, sweep: str, panels: Mapping[str, Sequence[Mapping]], device: str, rivals: Sequence[str]
) -> "Figure":
    """rivals: the competitors in the order of their colours, which are the same in all figures of a kernel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4 * len(panels)), layout="constrained")
    for axes, (title, records) in zip(
        figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels.items(), strict=True
    ):
        axes.set_title(f"{kernel}: {title}; {device}")
        _draw(axes, sweep, records, rivals)
    return figure


def _draw(axes: "Axes", sweep: str, records: Sequence[Mapping], rivals: Sequence[str]) -> None:
    """A line a competitor with its 20–80% band; the floor dashed."""
    largest = max(record["median"] for record in records)
    unit, name = (1e3, "ms") if largest >= 1e-3 else (1e6, "µs")
    factor = 100 if sweep == "density" else 1
    labels = []
    for who in dict.fromkeys(record["who"] for record in records):
        line = sorted((record for record in records if record["who"] == who), key=lambda record: record[sweep])
        if len(line) < 2:
            continue
        place = 0 if line[0]["ours"] else 1 + rivals.index(who) % (len(COLOURS) - 1)
        colour, marker = COLOURS[place], _MARKERS[place]
        x = [factor * record[sweep] for record in line]
        low, y, high = ([unit * record[p] for record in line] for p in ("p20", "median", "p80"))
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, y, color=colour, marker=marker, zorder=4 if line[0]["ours"] else 3)
        labels.append((who, colour, y[0] if sweep == "density" else y[-1]))
    floors = sorted((factor * r[sweep], unit * r["floor"]) for r in records if r["ours"] and r["floor"])
    if floors:
        axes.plot(*zip(*floors, strict=True), color=GREY, linestyle=(0, (4, 3)), linewidth=1)
        labels.append(("moving the bytes", GREY, floors[0][1] if sweep == "density" else floors[-1][1]))
    places = sorted({factor * record[sweep] for record in records})
    if sweep != "K":
        axes.set_xscale("log")
    axes.set_xticks(places, [short(place) for place in places])
    axes.set_xticks([], minor=True)
    if sweep == "density":
        axes.invert_xaxis()
    if sweep == "size":
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(_AXES[sweep].format(unit=_K.get(records[0]["kernel"], "K") if sweep == "K" else records[0]["unit"]))
    axes.set_ylabel(f"time of a call, {name}" + (" (log scale)" if sweep == "size" else ""))
    label_ends(axes, labels)
