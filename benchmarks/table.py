"""The table of a run: everybody's times, and ratios to ours, to the bandwidth floor and to a training step."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from sparselt.benchmarks.targets import verdict

if TYPE_CHECKING:
    from rich.table import Table

WIDTH = 116
"""Columns that the table needs."""

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def table(records: Sequence[Mapping], title: str) -> "Table":
    """One row for each record, ours first in each case.

    ratio: its time over ours. of floor: the time of moving the bytes alone, over its time. of a step: its time over
    that of one training step.
    """
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column("case", max_width=26)
    made.add_column("who", max_width=31)
    for name in ("median", "20–80%", "ratio", "of floor", "of a step"):
        made.add_column(name, justify="right", no_wrap=True)
    made.add_column("target", no_wrap=True)
    for kernel, of_kernel in groupby(records, key=lambda record: record["kernel"]):
        made.add_section()
        made.add_row(f"[bold]{kernel}[/]")
        for case in _cases(list(of_kernel)):
            _add(made, case)
    return made


def notes(records: Sequence[Mapping]) -> list[str]:
    """Lines under the table: the training steps, and remarks on single records."""
    steps = {record["step_of"]: record["step"] for record in records if record["step_of"]}
    lines = [f"A training step: {of}, {duration(seconds)}." for of, seconds in steps.items()]
    lines += [f"{r['kernel']}, {r['case']}, {r['who']}: {r['note']}" for r in records if r["note"]]
    if any((record["floor_fraction"] or 0) > 1 for record in records):
        lines.append("Over 100% of the floor: part of the data stayed in caches, which are faster than memory.")
    return lines


def duration(seconds: float) -> str:
    """Three digits and a unit: `35.1 µs`."""
    return " ".join(_digits(seconds))


def short(number: float) -> str:
    """`8.96k`, `10M`."""
    number = float(f"{number:.3g}")
    size, unit = next((u for u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= u[0]), (1.0, ""))
    return f"{number / size:.3g}{unit}"


def _digits(seconds: float, like: float | None = None) -> tuple[str, str]:
    size, unit = next((u for u in _UNITS if (like or seconds) >= u[0]), _UNITS[-1])
    value = seconds / size
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}", unit


def _cases(records: Sequence[Mapping]) -> list[list[Mapping]]:
    cases: list[list[Mapping]] = []
    for record in records:
        if record["ours"]:
            cases.append([])
        cases[-1].append(record)
    return cases


def _add(made: "Table", case: Sequence[Mapping]) -> None:
    ours = case[0]
    details = [f"density {ours['density']:g}"] * (ours["density"] < 1) + [f"K = {ours['K']}"] * (ours["K"] > 1)
    details += [{"events": "device events", "graph": "CUDA graph"}.get(ours["clock"], "")]
    rate = f", {short(ours['size'] / ours['median'])}/s" if ours["unit"] == "images" else ""
    labels = [ours["case"], f"{ours['size']:,} {ours['unit']}{rate}", ", ".join(filter(None, details))]
    labels = [f"  {label}" for label in labels if label]
    for place in range(max(len(labels), len(case))):
        label = labels[place] if place < len(labels) else ""
        made.add_row(label, *(_cells(case[place]) if place < len(case) else ()))


def _cells(record: Mapping) -> list[str]:
    ends = "–".join(_digits(record[name], like=record["median"])[0] for name in ("p20", "p80"))
    ratio = "" if record["ours"] else f"{record['ratio']:.2f}×"
    floor = "" if record["floor_fraction"] is None else f"{record['floor_fraction']:.0%}"
    share = "" if record["step_share"] is None else _percent(record["step_share"])
    who = f"[bold]{record['who']}[/]" if record["ours"] else record["who"]
    said = verdict(record)
    said = f"[red]{said}[/]" if "missed" in said else f"[green]{said}[/]" if said else ""
    return [who, duration(record["median"]), ends, ratio, floor, share, said]


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 else f"{100 * share:.2g}%"
