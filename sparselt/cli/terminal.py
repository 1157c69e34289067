"""Tables and sentences as wide as the terminal. Into a pipe or a file they go whole, unless COLUMNS says otherwise."""

import shutil
import textwrap
from collections.abc import Sequence

_UNLIMITED = 1_000_000
_GAP = 2


def width() -> int:
    """Columns of the terminal, or of the variable COLUMNS."""
    return shutil.get_terminal_size((_UNLIMITED, 24)).columns


def say(text: str, indent: str = "") -> None:
    """Prints sentences, folded between words. indent: before all lines but the first."""
    print(textwrap.fill(text, width(), subsequent_indent=indent, break_long_words=False, break_on_hyphens=False))


def print_table(headings: Sequence[str], lines: Sequence[Sequence[str]], spare: Sequence[str], cut: str) -> None:
    """Prints columns of text, one line each, never folded.

    Args:
        spare: columns that may be left out, in this order, where the terminal is too narrow. This is said below.
        cut: the column whose cells end in … where that is not enough.
    """
    columns = dict(zip(headings, zip(*lines, strict=True), strict=True)) if lines else dict.fromkeys(headings, ())
    widths = {name: max(map(len, (name, *cells))) for name, cells in columns.items()}
    left_out = []
    for name in spare:
        if _total(widths) > width():
            left_out.append(name)
            del widths[name]
    widths[cut] = max(len(cut), widths[cut] - max(0, _total(widths) - width()))
    for line in (headings, *lines):
        cells = dict(zip(headings, line, strict=True))
        if len(cells[cut]) > widths[cut]:
            cells[cut] = cells[cut][: widths[cut] - 1] + "…"
        print((" " * _GAP).join(cells[name].ljust(size) for name, size in widths.items()).rstrip())
    if left_out:
        say(f"Not shown, for lack of width: {', '.join(left_out)} (--json has all).")


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)
