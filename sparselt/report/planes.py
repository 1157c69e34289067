"""Planes through networks, drawn: the errors on a grid as colours, and the plane of three tickets as a figure."""

from typing import TYPE_CHECKING, Any, Literal

from sparselt.report import drawing as draw
from sparselt.report.data import Drawing
from sparselt.report.wording import points

if TYPE_CHECKING:
    import numpy as np

    from sparselt.analysis.tickets import TicketPlane

_MARKERS = ("^", "o", "s")


def draw_grid(
    axes: "draw.Axes",
    x: "np.ndarray",
    y: "np.ndarray",
    errors: "np.ndarray",
    scale: Any,
    aspect: Literal["auto", "equal"],
) -> "tuple[Any, np.ma.MaskedArray]":
    """Draws errors (fractions, [len(y), len(x)]) as colours; what a colour bar takes, and what is shown, in percent.

    scale: matplotlib's norm, in percent. Errors below it count as its lowest one; what diverged stays empty.
    """
    import numpy as np

    picture = np.ma.masked_invalid(np.clip(100 * errors, scale.vmin, None))
    half = [(line[1] - line[0]) / 2 for line in (x, y)]
    extent = (x[0] - half[0], x[-1] + half[0], y[0] - half[1], y[-1] + half[1])
    how: dict[str, Any] = {"origin": "lower", "extent": extent, "interpolation": "nearest", "aspect": aspect}
    return axes.imshow(picture, cmap="cividis", norm=scale, **how), picture


def tickets_drawing(plane: "TicketPlane") -> Drawing:
    """The plane through three tickets, both directions on one scale."""
    import numpy as np
    from matplotlib.colors import LogNorm

    finite = 100 * plane.errors[np.isfinite(plane.errors)]
    low = max(float(finite.min(initial=100)), 0.1)
    high = max(float(finite.max(initial=0)), 1.5 * low)
    figure, (axes,) = draw.canvas(4.6)
    shown, _ = draw_grid(axes, plane.x, plane.y, plane.errors, LogNorm(low, high), aspect="equal")
    for number, (place, marker) in enumerate(zip(plane.axes.points, _MARKERS, strict=True)):
        axes.plot(*place, marker, color=draw.COLOURS[4], markersize=7, markeredgecolor=draw.INK)
        text = f"{number}: {points(plane.corner_errors[number])}%"
        sheet = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5}
        axes.annotate(text, place, (7, 7), textcoords="offset points", fontsize=8.5, bbox=sheet)
    axes.set_xlabel("L2 distance from network 1, towards network 2")
    axes.set_ylabel("L2 distance, towards network 0")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, label="error, % (log scale)")
    marks = draw.round_numbers(low, high)
    bar.set_ticks(marks, labels=[f"{mark:g}" for mark in marks])
    bar.ax.minorticks_off()
    return Drawing(figure, "The plane through three networks", "")
