"""The report of a run: figures, tables and one HTML page, made from the run's folder. Nothing here trains.

The report knows no experiment: how each is reported it takes from a `Section`, see `sparselt.report.data`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparselt.errors import naming_extras

if TYPE_CHECKING:
    from rich.console import Console

    from sparselt.report.data import Drawing, Sections
    from sparselt.report.run import Run

__all__ = ["console_summary", "report", "write_markdown", "write_report"]

_OF_THE_RUN = ("results.csv", "results.json", "record.json", "ledger.csv", "report.html")


@naming_extras()
def report(folder: str | Path, console: "Console", sections: "Sections") -> None:
    """Write the page of a run and print its summary, from one reading of its files."""
    from sparselt.report.run import read_run

    run = read_run(folder)
    write_report(run, sections)
    console.print()
    console_summary(run, console, sections)


@naming_extras()
def write_report(folder: "str | Path | Run", sections: "Sections") -> Path:
    """Draw the figures into `<folder>/figures/` and write `<folder>/report.html`; the path of the page.

    The folder, or a run that was read from it, holds results.csv and record.json, and ledger.csv if the page is to say
    what the run cost. Everything is read and checked before anything is written. StoreError, naming the file and line,
    for what is missing or malformed.

    Args:
        sections: how each experiment is reported; rows of experiments without a section are tabulated plainly.
    """
    from sparselt.errors import StoreError
    from sparselt.report.drawing import figure_style, relabel, save_drawings
    from sparselt.report.page import page
    from sparselt.report.results import write_text
    from sparselt.report.run import Run, on_validation, read_run

    run = folder if isinstance(folder, Run) else read_run(folder)
    figures = run.folder / "figures"
    try:
        figures.mkdir(exist_ok=True)
    except OSError as error:
        raise StoreError(f"{figures} cannot be made: {error.strerror}.") from None

    def save(drawings: "Mapping[str, Drawing]") -> dict[str, str]:
        if on_validation(run.record):
            relabel(drawings, run.labelled)
        return save_drawings(figures, drawings)

    with figure_style():
        html = page(run, sections, save)
    write_text(run.folder / "report.html", html)
    return run.folder / "report.html"


@naming_extras()
def write_markdown(folder: str | Path, path: str | Path, sections: "Sections", figures: bool = False) -> None:
    """Write the findings of the run in `folder` to `path`, as a Markdown page, through a temporary name.

    figures: with the run's figures, as PNG files in a folder beside `path` that is called as the page.

    Raises:
        StoreError: a run that does not read, or a path that cannot be written; nothing is left then.
    """
    from sparselt.errors import StoreError
    from sparselt.files import naming_errors
    from sparselt.report.drawing import figure_style, relabel, save_drawings
    from sparselt.report.page import markdown
    from sparselt.report.results import write_text
    from sparselt.report.run import on_validation, read_run

    run, path = read_run(folder), Path(path)
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give the name of a file, such as {path / 'digits.md'}")
    if path.resolve().parent == run.folder.resolve() and path.name in _OF_THE_RUN:
        raise StoreError(f"{path} is a file of the run itself; give another name, such as {path.parent / 'digits.md'}")
    if not path.parent.is_dir():
        raise StoreError(f"{path.parent} is not a folder; make it, or give another path")
    if not figures:
        write_text(path, markdown(run, sections))
        return
    place = path.with_suffix("")
    with naming_errors(f"figures in {place}"):
        place.mkdir(exist_ok=True)

    def save(drawings: "Mapping[str, Drawing]") -> None:
        if on_validation(run.record):
            relabel(drawings, run.labelled)
        save_drawings(place, drawings, svg=False)

    with figure_style():
        text = markdown(run, sections, save, place.name)
    write_text(path, text)


@naming_extras()
def console_summary(folder: "str | Path | Run", console: "Console", sections: "Sections") -> None:
    """Print the tables of a run and the papers' findings, as wide as the console allows, and where its files are."""
    from sparselt.report.claims import claims, claims_in_terminal, notes, standing
    from sparselt.report.data import leads
    from sparselt.report.others import others_tables
    from sparselt.report.run import Run, on_validation, read_run

    run = folder if isinstance(folder, Run) else read_run(folder)
    data = run.data
    tables = [table for lead in leads(data, sections) for table in lead.tables(data, console.width)]
    tables += [table for section in sections.values() for table in section.tables(data)]
    others = others_tables(data, sections)
    for table in [*tables, *others]:
        console.print(table.rich(most=None if table in tables else 40))
        console.print()
    if not tables and not others:
        for section in (section for name, section in sections.items() if data.select(experiment=name)):
            for text in section.findings(data):
                console.print(run.labelled(text), highlight=False, markup=False)
    synthetic = "The data is synthetic: these numbers check the machinery and say nothing about lottery tickets."
    validation = "All errors are of validation images, held out of the training set; no test image was evaluated."
    below = [*(table.note for table in tables if table.note), *[synthetic] * run.record["synthetic"]]
    for note in [*map(run.labelled, below), *[validation] * on_validation(run.record)]:
        console.print(note, highlight=False, markup=False)
    for section in sections.values():
        for warning in section.warnings(data):
            console.print(warning, style="yellow", highlight=False, markup=False)
    console.print()
    found, not_judged = claims(data, sections)
    if found:
        console.print(claims_in_terminal(found).rich(padding=2))
        console.print()
        for note in (standing(run.record), *notes(found, data)[1:]):
            console.print(note, highlight=False, markup=False)
        console.print()
    elif not_judged:
        console.print(not_judged, highlight=False, markup=False)
        console.print()
    for name in ("report.html", "figures", "results.csv", "results.json", "ledger.csv"):
        path = run.folder / name
        if path.exists():
            console.print(str(path), highlight=False, markup=False, soft_wrap=True)
