"""Interactive versions of figures: the numbers as Plotly's JSON, and plotly.js packed into the page.

`templates/charts.js` unpacks and draws them. Without scripts the page shows the figures themselves.
"""

import base64
import functools
import json
import math
import textwrap
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparselt.report.data import Chart, Drawing
from sparselt.report.drawing import COLOURS, Look
from sparselt.report.statistic import Values
from sparselt.report.wording import mean_and_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SYMBOLS = {"o": "circle", "s": "square", "D": "diamond", "v": "triangle-down", "P": "cross", "*": "star"}
_SYMBOLS |= {"x": "x-thin-open", "+": "cross-thin-open"}
_DASHES = {"-": "solid", "--": "dash", ":": "dot"}
_INK, _LINE, _PAPER = "var(--ink)", "var(--line)", "var(--paper)"


@functools.cache
def packed_plotly() -> str:
    """plotly.js of the installed package `plotly`, compressed (zlib), in base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(zlib.compress(get_plotlyjs().encode(), 5)).decode()


def chart_json(drawing: Drawing) -> str:
    """Traces and layout of a drawing's chart, for Plotly; `` where it has none. Colours are those of the page."""
    chart = drawing.chart
    if chart is None:
        return ""
    traces = [trace for look, points in chart.lines for trace in _traces(look, points)]
    axes = drawing.figure.axes[0]
    # Where panels stand one above the other, only the lowest has labels on its x axis.
    below = max(axes.get_shared_x_axes().get_siblings(axes), key=drawing.figure.axes.index)
    layout = {
        "xaxis": _axis(below, "x") | {"unifiedhovertitle": {"text": " "}},
        "yaxis": _axis(axes, "y"),
        "shapes": _shapes(chart),
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": _PAPER, "bordercolor": _LINE, "font": {"color": _INK}, "namelength": -1},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "font": {"color": _INK, "family": "system-ui, sans-serif", "size": 12},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
    }
    return json.dumps({"data": [_titles(traces, chart.places), *traces], "layout": layout}, ensure_ascii=False).replace(
        "<", "\\u003c"
    )


def _titles(traces: Sequence[Mapping[str, Any]], places: Mapping[float, str]) -> dict[str, Any]:
    """A trace that is not seen. It gives the box that shows the numbers of a place its first line, the place's name."""
    points = {x: y for trace in traces for x, y in zip(trace["x"], trace["y"], strict=True)}
    shown = {"x": [*points], "y": [*points.values()], "text": [places.get(x, f"{x:g}") for x in points]}
    style = {"type": "scatter", "mode": "markers", "marker": {"opacity": 0}, "showlegend": False, "meta": "title"}
    return style | shown | {"hovertemplate": "%{text}<extra></extra>"}


def _traces(look: Look, points: Mapping[float, Values]) -> Iterator[dict[str, Any]]:
    """The means of a line, then each of its replicates."""
    finite = {place: values.finite for place, values in sorted(points.items()) if values.finite}
    if not finite:
        return
    colour = f"var(--series-{COLOURS.index(look.colour)})" if look.colour in COLOURS else "var(--grey)"
    means = {place: values.statistic for place, values in finite.items()}
    symbol = _SYMBOLS.get(look.marker, "circle") + ("-open" if look.hollow else "")
    style: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers" if look.line == "none" else "lines+markers" if look.marker else "lines",
        "name": look.label,
        "line": {"color": colour, "dash": _DASHES.get(look.line, "solid"), "width": 2},
        "marker": {"color": colour, "symbol": symbol, "size": 7},
    }
    style["marker"] |= {"line": {"width": 2 if "open" in symbol else 0}}
    numbers = [f"{mean_and_std(of)}, n = {of.n}" for of in means.values()]
    shown = _points({place: of.mean for place, of in means.items()})
    bars = {"array": [_number(of.std or 0.0) for of in means.values()], "thickness": 1, "width": 0}
    yield (
        style
        | shown
        | {"customdata": numbers, "hovertemplate": "%{customdata}"}
        | ({"error_y": bars} if look.marker else {})
    )
    for replicate in sorted({replicate for values in finite.values() for replicate in values}):
        of = {place: values[replicate] for place, values in finite.items() if replicate in values}
        name = {"name": f"{look.label}, replicate {replicate}", "showlegend": False, "hovertemplate": "%{y:.2f}"}
        yield style | name | _points(of) | {"meta": replicate, "legendgroup": look.label}


def _points(values: Mapping[float, float]) -> dict[str, list[float]]:
    return {"x": [*values], "y": [_number(value) for value in values.values()]}


def _number(fraction: float) -> float:
    return round(100 * fraction, 4)


def _axis(axes: "Axes", of: str) -> dict[str, Any]:
    """Title, scale, limits and ticks of a figure's axis. What is partly logarithmic is linear here: one can zoom."""
    axis, ends = (axes.xaxis, axes.get_xlim()) if of == "x" else (axes.yaxis, axes.get_ylim())
    log = axis.get_scale() == "log"
    limits = [math.log10(place) if log else float(place) for place in ends]
    title = "<br>".join(textwrap.wrap(axis.get_label_text().partition("\n(")[0], 48))
    found: dict[str, Any] = {
        "title": {"text": title},
        "type": "log" if log else "linear",
        "range": limits,
        "automargin": True,
        "tickfont": {"size": 10},
    }
    found |= {"gridcolor": _LINE, "linecolor": _INK, "zeroline": False, "showgrid": of == "y"}
    if of == "x" or log:
        labels = [text.get_text().replace("\n", "<br>") for text in axis.get_ticklabels()]
        places = [float(place) for place in axis.get_majorticklocs()]
        found |= {"tickvals": places, "ticktext": labels, "tickangle": 0}
    return found


def _shapes(chart: Chart) -> list[dict[str, Any]]:
    """Behind the lines: the dense mean, a line, and the band up to ε above it; the limit."""
    grey = {"xref": "paper", "x0": 0, "x1": 1, "layer": "below", "line": {"width": 1, "color": "var(--grey)"}}
    shapes: list[dict[str, Any]] = []
    if chart.dense is not None and chart.dense.n:
        low, high = chart.dense.mean, chart.dense.mean if chart.dense.limit is None else chart.dense.limit
        band = {"type": "rect", "y0": _number(low), "y1": _number(high), "fillcolor": "var(--grey)", "opacity": 0.3}
        shapes += [
            grey | band | {"line": {"width": 0}},
            grey | {"type": "line", "y0": _number(low), "y1": _number(low)},
        ]
    if chart.limit is not None:
        at = _number(chart.limit)
        shapes.append(grey | {"type": "line", "y0": at, "y1": at, "line": {"color": "var(--grey)", "dash": "dash"}})
    return shapes
