"""The findings of the papers beside this run's figures: *paper / here / agrees?*, on the page and in Markdown."""

from collections.abc import Sequence
from html import escape

from sparselt.report.section import Claim, Data
from sparselt.report.sections import SECTIONS


def claims(data: Data) -> list[Claim]:
    """Every claim that the run's measurements bear on, in the order of the sections.

    None at scale smoke and on synthetic data, which check the machinery: what they show is not about lottery tickets.
    """
    if data.record["scale"] == "smoke" or data.record["synthetic"]:
        return []
    found = []
    for name, section in SECTIONS.items():
        if data.select(experiment=name):
            found += section.claims(data)
    return found


def not_judged(data: Data) -> str:
    """Why a run that bears on findings judges none of them; empty if it judges some, or bears on none."""
    if claims(data) or not any(data.select(experiment=name) for name in SECTIONS):
        return ""
    if data.record["synthetic"]:
        return "The papers' findings are not judged on synthetic data."
    if data.record["scale"] == "smoke":
        return "The papers' findings are not judged at scale smoke, which checks that every stage works."
    return ""


def claims_table(found: Sequence[Claim]) -> str:
    """The claims as HTML; empty where there is none."""
    if not found:
        return ""
    head = "".join(f'<th class="text" scope="col">{name}</th>' for name in _HEADINGS)
    lines = []
    for claim in found:
        cells = "".join(f'<td class="text">{escape(cell)}</td>' for cell in _cells(claim))
        lines.append(f"<tr>{cells}</tr>")
    body = "\n".join(lines)
    return (
        "<h2>The papers' findings</h2>\n"
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n'
    )


def claims_markdown(found: Sequence[Claim]) -> str:
    """The claims as a Markdown table."""
    lines = [_HEADINGS, ["---"] * len(_HEADINGS), *(_cells(claim) for claim in found)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def claims_rich(found: Sequence[Claim]):
    """The claims as a rich table for the terminal: the verdict beside the finding and what was measured, by paper."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 2, 0, 0), show_edge=False)
    table.add_column("agrees?", no_wrap=True)
    table.add_column("what the papers find, and what was measured here")
    for paper in dict.fromkeys(claim.paper for claim in found):
        table.add_row("", Text(paper, "bold"))
        for claim in found:
            if claim.paper == paper:
                tested = f" (n = {claim.n}, {claim.statistic if claim.p is None else _p(claim.p)})"
                verdict, style = _SHORT[claim.verdict]
                table.add_row(Text(verdict, style), Text.assemble(claim.claim, ": ", (claim.here + tested, "dim")))
    return table


_SHORT = {
    "agrees": ("agrees", "bold green"),
    "does not agree": ("does not", "bold red"),
    "cannot be seen at this scale": ("not seen", ""),
}
_HEADINGS = ["paper", "finding", "here", "statistic", "agrees?"]


def _cells(claim: Claim) -> list[str]:
    tested = f"{claim.statistic}; n = {claim.n}" + ("" if claim.p is None else f", {_p(claim.p)}")
    return [claim.paper, claim.claim, claim.here, tested, claim.verdict]


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
