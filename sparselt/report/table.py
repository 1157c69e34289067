"""A table of texts, made once, shown on the page (`templates/page.html.j2`), in the terminal and in Markdown."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table as RichTable
    from rich.text import Text

MARK = "*"
"""What a cell of numbers ends in that stands out."""

_EMPTY = ("–", "")


@dataclass(frozen=True)
class Table:
    """Headings and lines of cells.

    Args:
        text: how many columns, from the left, hold text and stand left; numbers stand right.
        groups: headings above those of the columns, each with the number of columns below it; "" groups none.
        title, note: above and below it.
        faint: columns that a terminal dims.
    """

    headings: Sequence[str]
    lines: Sequence[Sequence["str | Text"]]
    text: int = 0
    groups: Sequence[tuple[str, int]] = ()
    title: str = ""
    note: str = ""
    faint: Sequence[int] = ()

    def without_empty_columns(self) -> "Table":
        """The table without the columns that have no value in any line."""
        kept = [k for k in range(len(self.headings)) if any(str(line[k]) not in _EMPTY for line in self.lines)]
        ends = [0, *itertools.accumulate(size for _, size in self.groups)]
        sizes = [sum(start <= k < end for k in kept) for start, end in itertools.pairwise(ends)]
        return replace(
            self,
            headings=[self.headings[k] for k in kept],
            lines=[tuple(line[k] for k in kept) for line in self.lines],
            text=sum(k < self.text for k in kept),
            groups=[(title, size) for (title, _), size in zip(self.groups, sizes, strict=True) if size],
            faint=[kept.index(k) for k in self.faint if k in kept],
        )

    def markdown(self) -> str:
        """The table in Markdown, without title, note and groups."""
        lines = [self.headings, ["---"] * len(self.headings), *self.lines]
        return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

    def rich(self, padding: int = 1, most: int | None = None) -> "RichTable":
        """The table for a terminal, without title and note; of more than `most` lines the first ones, which it says."""
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, padding, 0, 0), show_edge=False)
        above = [title if not place else "" for title, size in self.groups for place in range(size)]
        marked = {k for line in self.lines for k, cell in enumerate(line) if k >= self.text and cell[-1:] == MARK}
        for place, heading in enumerate(self.headings):
            heading = f"{above[place]}\n{heading}" if above and self.groups[0][1] <= place else heading
            style = "dim" if place in self.faint else ""
            table.add_column(Text(heading), justify="left" if place < self.text else "right", style=style)
        for line in self.lines[:most]:
            cells = [Text(cell) if isinstance(cell, str) else cell for cell in line]
            for place in marked:
                if cells[place].plain.endswith(MARK):
                    cells[place].stylize("bold green")
                else:
                    cells[place].append(" ")
            table.add_row(*cells)
        if most is not None and len(self.lines) > most:
            table.caption = f"the first {most} of {len(self.lines)} lines"
        return table
