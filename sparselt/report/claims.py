"""The findings of the papers beside this run's figures: *paper / here / agrees?*, and the rules that judge them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from sparselt.report import rules
from sparselt.report.data import Claim, Data, Sections
from sparselt.report.table import Table
from sparselt.report.wording import count, every, listing, p_text, points, verb

_SHORT = {
    "agrees": ("agrees", "bold green"),
    "does not agree": ("does not", "bold red"),
    "cannot be seen at this scale": ("not seen", ""),
    "not judged": ("not judged", "dim"),
}
_COUNTED = {
    "agrees": ("agrees with the paper", "agree with the paper"),
    "does not agree": ("does not agree", "do not agree"),
    "cannot be seen at this scale": ("cannot be seen at this scale",) * 2,
    "not judged": ("was not judged", "were not judged"),
}


def claims(data: Data, sections: Sections) -> tuple[list[Claim], str]:
    """Every claim that the run's measurements bear on, in the order of the sections; or why none is judged, if it is.

    None is at scale smoke and on synthetic data, which check the machinery: they are not about lottery tickets.
    """
    measured = [section for name, section in sections.items() if data.select(experiment=name)]
    found = [claim for section in measured for claim in section.claims(data)]  # also where none is shown: it may fail
    if measured and data.record["synthetic"]:
        return [], "The papers' findings are not judged on synthetic data."
    if measured and data.record["scale"] == "smoke":
        return [], "The papers' findings are not judged at scale smoke, which checks that every stage works."
    return found, ""


def claims_table(found: Sequence[Claim]) -> Table:
    """The claims for the page and in Markdown, each p beside those that are corrected for the number of tests."""
    corrected = iter(rules.adjusted([claim.p for claim in found if claim.p is not None]))
    lines = []
    for claim in found:
        numbers = ("–",) * 3 if claim.p is None else (p_text(p).lstrip("p= ") for p in (claim.p, *next(corrected)))
        statistic = f"{_tested(claim)}; n = {claim.n}"
        lines.append((claim.paper, claim.claim, claim.here, claim.verdict, statistic, *numbers))
    return Table(("paper", "finding", "here", "agrees?", "statistic", "p", "Holm", "BH"), lines, text=5)


def _tested(claim: Claim) -> str:
    """What was tested, or why nothing was. Without any value that is not the number of replicates."""
    return claim.statistic if claim.n else "no replicate has what it compares"


def counted(found: Sequence[Claim]) -> str:
    """How many claims have which verdict, in a sentence."""
    number = Counter[str](claim.verdict for claim in found)
    kinds = [f"{number[name]} {verb(number[name], *forms)}" for name, forms in _COUNTED.items() if number[name]]
    return f"Of {count(len(found), 'finding')}, {listing(kinds)}."


def claims_in_terminal(found: Sequence[Claim]) -> Table:
    """The claims for the terminal: the verdict beside the finding and what was measured, by paper."""
    from rich.text import Text

    lines = []
    for paper in dict.fromkeys(claim.paper for claim in found):
        lines.append((Text(), Text(paper, "bold")))
        for claim in found:
            if claim.paper == paper:
                tested = f" (n = {claim.n}, {_tested(claim) if claim.p is None else p_text(claim.p)})"
                text = Text.assemble(claim.claim, ": ", (claim.here + tested, "dim"))
                lines.append((Text(*_SHORT[claim.verdict]), text))
    return Table(("agrees?", "the finding, and what was measured here"), lines, text=2)


def standing(record: Mapping) -> str:
    """Which version of the rules judges a run, and whether it explores or confirms."""
    of_run, seen, seed = record.get("rules") or {}, record.get("explored_seeds") or (), record.get("seed")
    text = f"Judged by version {rules.VERSION} of the rules (sparselt/report/rules.py, {rules.digest()})."
    before = sorted({of_run.get("version", 1), *of_run.get("judged_before", ())} - {rules.VERSION})
    if before:
        text += f" Exploratory: the rules are newer than its results, judged before by version {listing(before)}."
    elif seed in seen:
        text += f" Exploratory: rules and hyperparameters were chosen on results of seed {listing(seen)}."
    elif seen:
        text += f" Confirmatory: its seed is {seed}; rules and hyperparameters were chosen on seed {listing(seen)}."
        if given := record.get("given"):
            text += (
                f" But {listing(given)} {verb(len(given), 'was', 'were')} given by the user: the run confirms only if "
                f"{verb(len(given), 'this value was', 'these values were')} chosen before its results were seen."
            )
    return text


def notes(found: Sequence[Claim], data: Data) -> list[str]:
    """What verdicts mean, how many remain after correction, and what the number of test images allows to see."""
    tests = [claim for claim in found if claim.p is not None]
    if not tests:
        return []
    corrected = rules.adjusted([claim.p for claim in tests if claim.p is not None])
    kept = Counter(
        k
        for claim, of in zip(tests, corrected, strict=True)
        for k in (0, 1)
        if claim.verdict == "agrees" and of[k] < rules.SIGNIFICANT
    )
    agreeing = sum(claim.verdict == "agrees" for claim in tests)
    texts = [
        "agrees: p < 0.05, the chance of measurements at least so favourable if the finding did not hold; does not "
        "agree: the contrary has p < 0.05; cannot be seen at this scale: neither, or both; not judged: nothing was "
        "tested, and the statistic says why. ± is the standard deviation over replicates, ε that of the dense error.",
        "Each verdict is that of its row alone.",
    ]
    if agreeing:
        texts[-1] += (
            f" Corrected for {every(len(tests), 'test')} of this page, {kept[0]} of the {agreeing} that "
            f"{verb(agreeing, 'agrees', 'agree')} {verb(kept[0], 'keeps', 'keep')} p < 0.05 by Holm, {kept[1]} by "
            "Benjamini and Hochberg (BH)."
        )
    images, dense = (data.record.get("evaluation") or {}).get("count"), rules.dense_errors(data).mean
    if images:
        text = f"One of the {images:,} test images is {points(1 / images)} points"
        if dense > 0:
            spread = points(math.sqrt(dense * (1 - dense) / images))
            text += (
                f"; with as many other images, the dense error of {points(dense)}% would move by {spread} (one sigma)"
            )
        texts.append(f"{text}. All replicates share these images, and the verdicts hold for them.")
    return texts
