"""The findings of the papers beside this run's figures: *paper / here / agrees?*, on the page and in Markdown."""

from collections.abc import Sequence
from html import escape

from sparselt.report.section import Claim, Data
from sparselt.report.sections import SECTIONS


def claims(data: Data) -> list[Claim]:
    """Every claim that the run's measurements bear on, in the order of the sections."""
    found = []
    for name, section in SECTIONS.items():
        if data.select(experiment=name):
            found += section.claims(data)
    return found


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


_HEADINGS = ["paper", "finding", "here", "statistic", "agrees?"]


def _cells(claim: Claim) -> list[str]:
    tested = f"{claim.statistic}; n = {claim.n}" + ("" if claim.p is None else f", {_p(claim.p)}")
    return [claim.paper, claim.claim, claim.here, tested, claim.verdict]


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
