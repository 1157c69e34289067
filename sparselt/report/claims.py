"""The findings of the papers beside this run's figures: *paper / here / agrees?*."""

from collections.abc import Sequence

from sparselt.report.data import Claim, Data, Sections
from sparselt.report.table import Table

_SHORT = {
    "agrees": ("agrees", "bold green"),
    "does not agree": ("does not", "bold red"),
    "cannot be seen at this scale": ("not seen", ""),
}


def claims(data: Data, sections: Sections) -> tuple[list[Claim], str]:
    """Every claim that the run's measurements bear on, in the order of the sections; or why none is judged, if it is.

    None is at scale smoke and on synthetic data, which check the machinery: they are not about lottery tickets.
    """
    measured = [section for name, section in sections.items() if data.select(experiment=name)]
    if measured and data.record["synthetic"]:
        return [], "The papers' findings are not judged on synthetic data."
    if measured and data.record["scale"] == "smoke":
        return [], "The papers' findings are not judged at scale smoke, which checks that every stage works."
    return [claim for section in measured for claim in section.claims(data)], ""


def claims_table(found: Sequence[Claim]) -> Table:
    """The claims for the page and in Markdown."""
    lines = []
    for claim in found:
        tested = f"{claim.statistic}; n = {claim.n}" + ("" if claim.p is None else f", {_p(claim.p)}")
        lines.append((claim.paper, claim.claim, claim.here, tested, claim.verdict))
    return Table(("paper", "finding", "here", "statistic", "agrees?"), lines, text=5)


def claims_in_terminal(found: Sequence[Claim]) -> Table:
    """The claims for the terminal: the verdict beside the finding and what was measured, by paper."""
    from rich.text import Text

    lines = []
    for paper in dict.fromkeys(claim.paper for claim in found):
        lines.append((Text(), Text(paper, "bold")))
        for claim in found:
            if claim.paper == paper:
                tested = f" (n = {claim.n}, {claim.statistic if claim.p is None else _p(claim.p)})"
                text = Text.assemble(claim.claim, ": ", (claim.here + tested, "dim"))
                lines.append((Text(*_SHORT[claim.verdict]), text))
    return Table(("agrees?", "what the papers find, and what was measured here"), lines, text=2)


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"
