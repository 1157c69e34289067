"""`sparselt report`: draw the figures and the page of a run again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True)
class Report:
    """Draw the figures and the page of a run's folder again."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """A run's folder, with results.csv and record.json."""
    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write the findings as a Markdown page, and nothing else."""

    figures: bool = False
    """With --markdown: the figures, too, in a folder beside FILE that is called as it."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code."""
        from rich.console import Console

        from sparselt.experiments import known_experiments
        from sparselt.experiments.sections import sections_of
        from sparselt.report import report, write_markdown

        sections = sections_of(known_experiments())

        if self.markdown is not None:
            write_markdown(self.folder, self.markdown, sections, self.figures)
            print(self.markdown)
            return 0
        report(self.folder, Console(), sections)
        return 0


@dataclass(frozen=True)
class Compare:
    """Compare two runs or more: their verdicts, their values, and of two runs their numbers, with tests."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """The runs' folders."""
    markdown: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Write a Markdown page, and print nothing but its path."""

    def run(self, given: Sequence[str]) -> int:
        """Runs the command; returns the exit code."""
        from rich.console import Console

        from sparselt.experiments import known_experiments, varied_by
        from sparselt.experiments.sections import sections_of
        from sparselt.report.compare import compare
        from sparselt.report.results import write_text

        experiments = known_experiments()
        found = compare(self.folders, sections_of(experiments), varied_by(experiments))
        if self.markdown is not None:
            write_text(self.markdown, found.markdown())
            print(self.markdown)
            return 0
        console = Console(highlight=False)
        for table in (found.runs, found.verdicts, found.differences):
            if table is not None and table.lines:
                console.print(table.rich())
                console.print()
        for note in found.notes:
            console.print(note, markup=False)
        return 0
