"""The report of a run: figures, tables and one HTML page, made from the run's folder. Nothing here trains."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["console_summary", "write_report"]


def write_report(folder: str | Path) -> Path:
    """Draw the figures into `<folder>/figures/` and write `<folder>/report.html`; the path of the page.

    The folder holds results.csv and record.json, and ledger.csv if the page is to say what the run cost. Everything is
    read and checked before anything is written. StoreError, naming the file and line, for what is missing or malformed.
    """
    from sparselt.errors import StoreError
    from sparselt.report.figures import save_figures
    from sparselt.report.page import page
    from sparselt.report.results import write_text
    from sparselt.report.run import read_run

    run = read_run(folder)
    figures = run.folder / "figures"
    try:
        figures.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{figures} cannot be made: {error.strerror}.") from None
    html = run.folder / "report.html"
    write_text(html, page(run, save_figures(figures, run.data)))
    return html


def console_summary(folder: str | Path, console: "Console") -> None:
    """Print the tables of a run and the papers' findings, as wide as the console allows, and where its files are."""
    from sparselt.report.claims import claims, claims_rich, not_judged
    from sparselt.report.empty_layers import empty_layers
    from sparselt.report.others import others_tables
    from sparselt.report.run import read_run
    from sparselt.report.summary import is_core
    from sparselt.report.tables import control_table, level_tables, table_notes

    run = read_run(folder)
    levels = run.data.levels
    core = any(map(is_core, run.rows))
    tables = [*level_tables(levels, console.width), control_table(levels)] if core else []
    for table in [*tables, *others_tables(run.rows)]:
        if table is not None:
            console.print(table)
            console.print()
    synthetic = ["The data is synthetic: these numbers check the machinery and say nothing about lottery tickets."]
    for note in (table_notes(levels) if core else []) + synthetic * run.record["synthetic"]:
        console.print(note, highlight=False, markup=False)
    for warning in empty_layers(run.data):
        console.print(warning, style="yellow", highlight=False, markup=False)
    console.print()
    found = claims(run.data)
    if found:
        console.print(claims_rich(found))
        console.print()
    elif reason := not_judged(run.data):
        console.print(reason, highlight=False, markup=False)
        console.print()
    for name in ("report.html", "figures", "results.csv", "results.json", "ledger.csv"):
        path = run.folder / name
        if path.exists():
            console.print(str(path), highlight=False, markup=False, soft_wrap=True)
