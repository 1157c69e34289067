"""What the figures share: how they are saved, colours, lines, axes, the band of matching errors, names of lines.

Drawn with matplotlib's objects on its Agg and SVG canvases: no global figure, no window, the user's matplotlibrc left
out. Equal numbers give equal bytes.
"""

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sparselt.report.data import Drawing
from sparselt.report.results import write_bytes
from sparselt.report.rules import STABLE
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1a1a1b"
"""The colour of text and axes."""

GREY = "#747475"
"""The colour of the dense network and of the controls."""

COLOURS = ("#d55e00", "#0072b2", "#009e73", "#b5598d", "#e69f00", "#56b4e9")
"""The colours of the rewind steps, after Okabe and Ito's palette for readers with any colour vision."""

MARKERS = ("o", "s", "D", "v", "P", "*")
"""The markers of the rewind steps."""

STYLE = {
    "svg.hashsalt": "sparselt",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.linewidth": 0.7,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}
"""What every figure sets over matplotlib's defaults."""

_PNG_DPI = 160
# Metadata of an SVG that would change its bytes with the day or with matplotlib's version, as Software does in a PNG.
_LEFT_OUT = ("Date", "Creator", "Format", "Type")

DASHED = (0, (4, 3))
"""The line style of limits."""

End = tuple[str, str, float]
"""A line's name, its colour, and where it ends: see `label_ends`."""


class Look(NamedTuple):
    """How a line is named and drawn."""

    label: str
    colour: str
    marker: str = "o"
    line: str = "-"
    hollow: bool = False
    alpha: float | None = None

    @property
    def style(self) -> dict[str, Any]:
        """As matplotlib's arguments."""
        face = "none" if self.hollow else self.colour
        style = {"color": self.colour, "marker": self.marker, "linestyle": self.line, "markerfacecolor": face}
        return style | {"alpha": self.alpha, "label": self.label}


Line = tuple[Look, Iterable[tuple[float, Values | Statistic]]]
"""Measurements by their places on the axis, and how they are drawn."""


def look(place: int, label: str, line: str = "-", **more: Any) -> Look:
    """The look of a rewind step, or of whatever else comes in this place."""
    return Look(label, COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)], line, **more)


@contextmanager
def figure_style() -> Iterator[None]:
    """matplotlib's defaults and ours, whatever the user's matplotlibrc says; the user's settings come back after."""
    import matplotlib

    defaults = {key: value for key, value in matplotlib.rcParamsDefault.items() if "backend" not in key}
    settings: dict[Any, Any] = {**defaults, **STYLE}
    with matplotlib.rc_context(settings):
        yield


def relabel(drawings: Mapping[str, Drawing], rename: Callable[[str], str]) -> None:
    """Replaces each text in the figures (labels, titles, legends) by what `rename` returns for it."""
    from matplotlib.text import Text

    for drawing in drawings.values():
        for text in drawing.figure.findobj(Text):
            if (name := rename(text.get_text())) != text.get_text():
                text.set_text(name)


def save_drawings(folder: Path, drawings: Mapping[str, Drawing], svg: bool = True) -> dict[str, str]:
    """Save drawings as `<folder>/<name>.png` and `.svg`, each under a temporary name first; the SVG text of each.

    svg: False: save no SVG files.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    saved = {}
    with ThreadPoolExecutor(1) as beside:
        written = []
        for name, drawing in drawings.items():
            # Figure.savefig would draw each figure twice for each file; a canvas draws it once.
            dpi = drawing.figure.dpi
            drawing.figure.set_dpi(_PNG_DPI)
            pixels = FigureCanvasAgg(drawing.figure)
            pixels.draw()
            written.append(beside.submit(_write_png, folder / f"{name}.png", pixels.buffer_rgba()))
            drawing.figure.set_dpi(dpi)
            drawing.figure.set_layout_engine("none")  # the first canvas has placed everything, for half of its time
            text = io.BytesIO()
            FigureCanvasSVG(drawing.figure).print_svg(text, metadata=dict.fromkeys(_LEFT_OUT))
            if svg:
                write_bytes(folder / f"{name}.svg", text.getvalue())
            saved[name] = text.getvalue().decode("utf-8")
        for png in written:
            png.result()
    return saved


def _write_png(path: Path, pixels: memoryview) -> None:
    """Writes what a canvas has drawn. Its compression, the longest part, lets other threads go on."""
    from matplotlib.image import imsave

    image, metadata = io.BytesIO(), cast("dict[str, str]", {"Software": None})  # as print_png takes it
    imsave(image, pixels, format="png", origin="upper", dpi=_PNG_DPI, metadata=metadata)
    write_bytes(path, image.getvalue())


def canvas(
    height: float, rows: int = 1, columns: int = 1, *, width: float = 6.2, **shared: Any
) -> "tuple[Figure, list[Axes]]":
    """A figure, in inches, and its panels, row by row; `shared` is passed on to `Figure.subplots`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **shared).flat)


def bars(
    axes: "Axes",
    lines: Iterable[Line],
    scale: float = 100,
    move: Callable[[float, float], float] = lambda place, side: place + 0.06 * side,
    **more: Any,
) -> list[End]:
    """Draws lines of means, with standard deviations where they have markers, without what is not finite; their ends.

    `move` is given a place and the line's number, counted from the middle one, so that bars do not hide each other.
    """
    drawn = []
    for look, points in lines:
        statistics = (
            (place, values if isinstance(values, Statistic) else values.statistic) for place, values in points
        )
        drawn.append((look, [(place, statistic) for place, statistic in statistics if statistic.n]))
    drawn = [(look, found) for look, found in drawn if found]
    ends = []
    for number, (look, found) in enumerate(drawn):
        places = [move(place, number - (len(drawn) - 1) / 2) for place, _ in found]
        means = [scale * statistic.mean for _, statistic in found]
        deviations = [scale * (statistic.std or 0) for _, statistic in found] if look.marker else None
        axes.errorbar(places, means, deviations, **{"elinewidth": 0.8} | look.style | more)
        ends.append((look.label, look.colour, means[-1]))
    return ends


def dashes(
    axes: "Axes",
    lines: Sequence[tuple[Look, Mapping[Any, Values]]],
    apart: float,
    size: float = 5,
    faint: float = 0.7,
) -> tuple[list[End], float]:
    """Draws replicates as short dashes and their means as lines, fractions in percent; the lines' ends, and the largest
    value. Neighbouring lines stand `apart`, so that their dashes do not hide each other."""
    ends, largest = [], 0.0
    for number, (look, groups) in enumerate(lines):
        means = {}
        for place in sorted(groups):
            at = place + apart * (number - (len(lines) - 1) / 2)
            finite = [100 * value for value in groups[place].finite.values()]
            axes.plot([at] * len(finite), finite, "_", color=look.colour, alpha=faint, markersize=size)
            if finite:
                means[at] = math.fsum(finite) / len(finite)
                largest = max([largest, *finite])
        axes.plot(list(means), list(means.values()), **look.style)
        ends += [(look.label, look.colour, means[max(means)])] if means and look.label else []
    return ends, largest


def round_numbers(low: float, high: float, digits: Sequence[int] = (1, 2, 5)) -> list[float]:
    """1, 2 and 5 times powers of ten, from low to high: ticks of a logarithmic axis."""
    numbers = [digit * 10.0**power for power in range(-9, 10) for digit in digits]
    return [number for number in numbers if low <= number <= high]


def number_ticks(axis: Any, places: Sequence[float]) -> None:
    """Ticks of an axis at these places, labelled with the numbers themselves, and no others."""
    axis.set_ticks(places, [f"{place:g}" for place in places])
    axis.set_ticks([], minor=True)


def error_axis(axes: "Axes", errors: Iterable[Statistic], tops: Sequence[float] = ()) -> None:
    """Test errors in percent, linear from `axis_start`; logarithmic, and said so, where the largest mean would press
    the others into a corner. The axis holds the deviations as well, and `tops`, in percent."""
    errors = list(errors)
    means = [100 * error.mean for error in errors]
    ends = [*tops, *(100 * (error.mean + (error.std or 0)) for error in errors)]
    low, high, top = min(means), max(means), max((value for value in ends if math.isfinite(value)), default=0.0)
    axes.set_ylabel("test error, %")
    if not 0 < 5 * low < high:
        lowest = min(100 * (error.mean - (error.std or 0)) for error in errors)
        start, end = axis_start(lowest, max(high, top)), max(1.08 * high, 1.03 * top, 0.1)
        axes.set_ylim(start, end if start == 0 else max(high, top) + 0.1 * (max(high, top) - lowest))
        return
    axes.set_ylabel("test error, % (log scale)")
    axes.set_yscale("log")
    low, high = 0.8 * low, max(1.25 * high, 1.05 * top)
    number_ticks(axes.yaxis, round_numbers(low, high))
    axes.set_ylim(low, high)


def axis_start(low: float, high: float) -> float:
    """Where an axis of errors starts that go from `low` to `high`: at zero, or a bit below `low` if all of them lie in
    the upper half, where their differences would not show. Equal ones have none to show."""
    return low - 0.25 * (high - low) if high > low > high / 2 else 0.0


def barrier_axis(axes: "Axes", largest: float, name: str = "error barrier") -> None:
    """Linear up to 10 points; beyond, linear to 1 and logarithmic above, so that near zero and tens both show."""
    limit = 100 * STABLE.value
    axes.set_ylabel(f"{name}, points")
    axes.axhline(limit, color=GREY, linewidth=0.7, linestyle=DASHED)
    if largest <= 10:
        axes.set_ylim(-0.02 * max(largest, limit), 1.1 * max(largest, limit))
        return
    axes.set_ylabel(f"{name}, points\n(linear to 1, then log)")
    symmetric_log(axes, min(1.25 * largest, 115))


def symmetric_log(axes: "Axes", top: float) -> None:
    """Points from 0 to `top`, linear to 1 and logarithmic above."""
    axes.set_yscale("symlog", linthresh=1, linscale=0.6)
    number_ticks(axes.yaxis, [0, 0.5, 1, 2, 5, 10, 20, 50, 100])
    axes.set_ylim(-0.08, top)


def matching_band(axes: "Axes", dense: Statistic) -> None:
    """The dense mean as a line; the band up to mean + ε, in which a mean matches. Limits that were set before are moved
    up to hold it."""
    if not dense.n:
        return
    axes.axhline(100 * dense.mean, color=GREY, linewidth=0.8, zorder=1)
    if dense.limit is not None:
        axes.axhspan(100 * dense.mean, 100 * dense.limit, color=GREY, alpha=0.25, linewidth=0, zorder=0)
        axes.set_ylim(top=max(axes.get_ylim()[1], 102 * dense.limit))


def dense_label(dense: Statistic) -> list[End]:
    """The name of what `matching_band` draws."""
    if not dense.n:
        return []
    if dense.limit is None:
        return [("dense", GREY, 100 * dense.mean)]
    return [("dense + ε", GREY, 50 * (dense.mean + dense.limit))]


def level_axis(axes: "Axes", density: Mapping[int, float], last: int, margin: float = 0.1) -> None:
    """Levels 0 to `last`, each tick with its density below."""
    places = {k: f"{k}\n{percent(density[k]).rstrip('%')}" if k in density else str(k) for k in range(last + 1)}
    axes.set_xlim(-margin, last + margin)
    ticks(axes, places)
    axes.set_xlabel("level, with weights remaining in %")


def density_axis(axes: "Axes", densities: Iterable[float], first: float, last: float) -> None:
    """Weights remaining, logarithmic, from `first` down to `last`, with ticks at these densities."""
    if first == last:  # a single density stands in the middle
        first, last = 1.06 * first, last / 1.06
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    ticks(axes, {density: percent(density).rstrip("%") for density in sorted(densities, reverse=True)})
    axes.set_xlabel("weights remaining, % (log scale)")


def place_axis(axes: "Axes", labels: Sequence[str], name: str = "", margin: float = 0.3) -> None:
    """Places 0, 1, … at equal distances, such as the rewind steps, with these labels."""
    ticks(axes, dict(enumerate(labels)))
    axes.set_xlim(-margin, len(labels) - 1 + margin)
    axes.set_xlabel(name)


def ticks(axes: "Axes", labels: Mapping[Any, str]) -> None:
    """Ticks at these places; where there are many, every second, third, … is labelled."""
    stride = math.ceil(len(labels) / 16)
    texts = [label if place % stride == 0 else "" for place, label in enumerate(labels.values())]
    axes.set_xticks(list(labels), texts)
    axes.set_xticks([], minor=True)


def label_ends(axes: "Axes", labels: Sequence[End]) -> None:
    """Name each line at its right end, in its colour, moved apart where the ends are close. Set the limits before."""
    low, high = (axes.transData.transform((1, y))[1] for y in axes.get_ylim())
    height = axes.get_window_extent().height / axes.figure.dpi
    labels = sorted(labels, key=lambda label: label[2])
    ends = [min(1.0, max(0.0, (axes.transData.transform((1, y))[1] - low) / (high - low))) for *_, y in labels]
    for (text, colour, _), end, place in zip(labels, ends, _apart(ends, 0.17 / height), strict=True):
        leader: dict[str, Any] = {"color": colour, "linewidth": 0.6, "transform": axes.transAxes, "clip_on": False}
        axes.plot([1.005, 1.03], [end, place], **leader, scalex=False, scaley=False)
        axes.text(1.035, place, text, color=colour, transform=axes.transAxes, va="center", fontsize=9.5)


def _apart(places: Sequence[float], gap: float) -> list[float]:
    """Ascending places moved as little as possible (in squares) so that neighbours are at least `gap` apart.

    Without the gaps, place[k] − k·gap has to ascend: isotonic regression, by pooling neighbours that do not.
    """
    pools: list[tuple[float, int]] = []
    for index, place in enumerate(places):
        mean, size = place - index * gap, 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, size = (before * many + mean * size) / (many + size), many + size
        pools.append((mean, size))
    return [mean + index * gap for index, mean in enumerate(mean for mean, size in pools for _ in range(size))]
