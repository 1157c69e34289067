"""The findings of Movva et al. 2021 beside what a run shows of them."""

import itertools
from collections.abc import Mapping

from sparselt.report.section import Claim, Data, Verdict
from sparselt.report.sections.sibling_values import (
    CHANCES,
    Place,
    Values,
    after,
    against,
    dense,
    minus,
    overlaps,
    pretrained,
    signed,
    table,
)
from sparselt.report.verdicts import Judged, equal, lower, lower_than, spread
from sparselt.report.wording import count

PAPER = "Movva et al. 2021"

NOT_MUCH_MORE = 0.1
"""Masks are *not much more similar than chance* when they are less than this share of the way from chance to identical
masks: (Jaccard − chance) / (1 − chance). A tenth is our choice; the paper gives no number in its abstract."""


def claims(data: Data) -> list[Claim]:
    """The four findings of the abstract; the fourth once for all numbers of siblings and once for the largest.

    Over replicates, each averaged over the densities (and numbers of siblings) first; see `sparselt.report.verdicts`.

    - near chance: the share of the way from layerwise chance to identity, against `NOT_MUCH_MORE`;
    - pretraining: the Jaccard above layerwise chance, after the longest against after the shortest;
    - equal errors: the difference, against ε, the standard deviation of the dense error, which is the papers' measure
      of what matches; of both kinds of mask, if there are two: agrees if both do, contradicted if one is.
    """
    found = [_near_chance(data), _pretraining(data)]
    errors = table(data, "test_error")
    for pretraining in sorted({place.pretraining for place in errors}):
        found += _equal_errors(data, errors, pretraining)
    return [claim for claim in found if claim is not None]


def _near_chance(data: Data) -> Claim | None:
    """Siblings from initialization."""
    if 0 not in {step for _, step in overlaps(data, "jaccard")}:
        return None
    jaccard, layerwise, everywhere = (after(data, metric, 0) for metric in ("jaccard", *CHANCES))
    share = {k: (jaccard[k] - layerwise[k]) / (1 - layerwise[k]) for k in jaccard if layerwise[k] < 1}
    here = (
        f"mean over densities: Jaccard {_number(jaccard)}; chance {_number(layerwise)} layerwise, "
        f"{_number(everywhere)} global; {spread(share.values(), 1, 100)}% of the way from layerwise chance to identity"
    )
    text = "without shared pretraining, siblings' masks are not much more similar than chance"
    judged = lower_than(share, NOT_MUCH_MORE)
    return _judged(judged, f"{judged.statistic}, below {100 * NOT_MUCH_MORE:g}% of the way", text, here)


def _pretraining(data: Data) -> Claim | None:
    """The overlap after the longest pretraining against that after the shortest."""
    steps = sorted({step for _, step in overlaps(data, "jaccard")})
    if len(steps) < 2:
        return None
    above = {step: minus(after(data, "jaccard", step), after(data, "jaccard_layerwise_chance", step)) for step in steps}
    common = set.intersection(*(set(values) for values in above.values()))
    rising = sum(all(above[a][k] < above[b][k] for a, b in itertools.pairwise(steps)) for k in common)
    first, last = above[steps[0]], above[steps[-1]]
    here = (
        f"Jaccard above layerwise chance, mean over densities: {_number(first)} {pretrained(steps[0])}, "
        f"{_number(last)} {pretrained(steps[-1])}; rising from each of {count(len(steps), 'pretraining')} to the next "
        f"in {rising} of {count(len(common), 'replicate')}"
    )
    judged = lower(first, last)
    return _judged(
        judged, judged.statistic, "shared pretraining increases the overlap of siblings' masks significantly", here
    )


def _equal_errors(data: Data, errors: Mapping[Place, Values], pretraining: int) -> list[Claim]:
    """Union against intersection, and both against one sibling's mask, at equal density, pruned one-shot."""
    one_shot = {p: v for p, v in errors.items() if p.pretraining == pretraining and p.levels == 1}
    counts = sorted({place.siblings for place in one_shot if place.variant == "union"})
    if not counts:
        return []
    margin = dense(data).epsilon or 0.0
    where = f" ({pretrained(pretraining)})"
    one = "one sibling's mask"
    between = {("union", "intersection"): against(one_shot, "union", "intersection", counts)}
    alone = {(how, one): against(one_shot, how, "single", counts) for how in ("union", "intersection")}
    texts = {
        "union and intersection perform very similarly, at equal density" + where: between,
        "both match one-shot magnitude pruning of one sibling, at equal density" + where: alone,
    }
    if len(counts) > 1:
        most = counts[-1]
        alone = {(how, one): against(one_shot, how, "single", [most]) for how in ("union", "intersection")}
        texts[f"both match it even with the masks of {most} siblings" + where] = alone
    return [_equal(text, differences, margin) for text, differences in texts.items()]


def _equal(text: str, differences: Mapping[tuple[str, str], Values], margin: float) -> Claim:
    """A claim that differences of errors are nothing; each by the names of what was compared."""
    here = "; ".join(f"{one} − {other}: {signed(values)} points" for (one, other), values in differences.items())
    judged = [equal(values, dict.fromkeys(values, 0.0), margin, "points", 100) for values in differences.values()]
    worst = max(judged, key=lambda j: (j.p is None, j.p or 0.0, j.verdict != "agrees"))
    verdicts: list[Verdict] = [j.verdict for j in judged]
    verdict = "does not agree" if "does not agree" in verdicts else worst.verdict
    statistic = worst.statistic + (", the larger p of the two" if len(judged) > 1 else "")
    if margin == 0:
        statistic = "the dense error has no standard deviation above zero"
    return _judged(Judged(worst.statistic, worst.n, worst.p, verdict), statistic, text, here)


def _judged(judged: Judged, statistic: str, text: str, here: str) -> Claim:
    if judged.p is None and judged.n < 2:
        statistic = "fewer than two replicates"
    if judged.p is None:
        statistic = f"cannot be judged: {statistic}"
    return Claim(PAPER, text, here, statistic, judged.n, judged.p, judged.verdict)


def _number(values: Values) -> str:
    return spread(values.values(), 3)
