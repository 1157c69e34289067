"""The findings of Movva et al. 2021 beside what a run shows of them."""

import dataclasses
import itertools
from collections.abc import Mapping

from sparselt.experiments.siblings.values import (
    CHANCES,
    Place,
    Values,
    after,
    against,
    dense,
    minus,
    overlaps,
    pretrained,
    pruned,
    signed,
    table,
)
from sparselt.report.section import Claim, Data, Verdict
from sparselt.report.verdicts import (
    REPLICATES,
    Judged,
    epsilon_text,
    equal,
    lower,
    lower_than,
    not_higher,
    significant,
    spread,
)
from sparselt.report.wording import count

PAPER = "Movva et al. 2021"

NOT_MUCH_MORE = 0.1
"""Masks are *not much more similar than chance* when they are less than this share of the way from chance to identical
masks: (Jaccard − chance) / (1 − chance). A tenth is our choice; the paper gives no number in its abstract."""


def claims(data: Data) -> list[Claim]:
    """The four findings of the abstract; those on errors once for each way the siblings were pruned, one-shot or in
    several prunings, and the fourth once for all numbers of siblings and once for the largest.

    Over replicates, each averaged over the densities (and numbers of siblings) first; see `sparselt.report.verdicts`.

    - near chance: the share of the way from layerwise chance to identity, against `NOT_MUCH_MORE`;
    - pretraining: the Jaccard above layerwise chance, after the longest against after the shortest;
    - equal errors: the difference, against ε, the standard deviation of the dense error, which is the papers' measure
      of what matches. Union and intersection perform similarly if they differ by less than ε either way; both match one
      sibling's mask if each errs more by less than ε (an error that is lower loses nothing, as everywhere else):
      agrees if both do, contradicted if one is.
    """
    found = [_near_chance(data), _pretraining(data)]
    errors = table(data, "test_error")
    for pretraining in sorted({place.pretraining for place in errors}):
        for levels in sorted({place.levels for place in errors if place.pretraining == pretraining}):
            here = {p: v for p, v in errors.items() if (p.pretraining, p.levels) == (pretraining, levels)}
            how = pruned(levels) if levels == 1 else f"{pruned(levels)}, ours"
            found += _equal_errors(data, here, f" ({how}, {pretrained(pretraining)})")
    return [claim for claim in found if claim is not None]


def _near_chance(data: Data) -> Claim | None:
    """Siblings from initialization."""
    if 0 not in {step for _, step in overlaps(data, "jaccard")}:
        return None
    jaccard, layerwise, everywhere = (after(data, metric, 0) for metric in ("jaccard", *CHANCES))
    share = {
        k: (jaccard[k] - layerwise[k]) / (1 - layerwise[k]) for k in jaccard if k in layerwise and layerwise[k] < 1
    }
    if not share:
        return None
    here = (
        f"mean over densities: Jaccard {_number(jaccard)}; chance {_number(layerwise)} layerwise, "
        f"{_number(everywhere)} global; {spread(share.values(), 1, 100)}% of the way from layerwise chance to identity"
    )
    text = "without shared pretraining, siblings' masks are not much more similar than chance"
    judged = lower_than(share, NOT_MUCH_MORE)
    if judged.p is not None:
        limit = f"{judged.statistic}, below {100 * NOT_MUCH_MORE:g}% of the way, a limit of ours"
        above = lower(dict.fromkeys(share, 0.0), share)
        if above.verdict == "agrees":
            limit += f"; above chance all the same, p = {above.p:.2g}"
        judged = dataclasses.replace(judged, statistic=limit)
    return judged.claim(PAPER, text, here)


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
    text = "shared pretraining increases the overlap of siblings' masks significantly"
    return lower(first, last).claim(PAPER, text, here)


def _equal_errors(data: Data, errors: Mapping[Place, Values], where: str) -> list[Claim]:
    """Union against intersection, and both against one sibling's mask, at equal density; `errors` of one pruning."""
    counts = sorted({place.siblings for place in errors if place.variant in ("union", "intersection")})
    if not counts:
        return []
    margin = dense(data).epsilon or 0.0
    one = "one sibling's mask"
    between = {("union", "intersection"): against(errors, "union", "intersection", counts)}
    alone = {(how, one): against(errors, how, "single", counts) for how in ("union", "intersection")}
    texts = {
        "union and intersection perform very similarly, at equal density" + where: between,
        "both match magnitude pruning of one sibling, at equal density" + where: alone,
    }
    if len(counts) > 1:
        most = counts[-1]
        alone = {(how, one): against(errors, how, "single", [most]) for how in ("union", "intersection")}
        texts[f"both match it even with the masks of {most} siblings" + where] = alone
    return [_equal(text, differences, margin) for text, differences in texts.items()]


def _equal(text: str, differences: Mapping[tuple[str, str], Values], margin: float) -> Claim:
    """A claim that differences of errors are nothing; each by the names of what was compared."""
    here = "; ".join(f"{one} − {other}: {signed(values)} points" for (one, other), values in differences.items())
    judged = [_nothing(values, margin, either_way=len(differences) == 1) for values in differences.values()]
    worst = max(judged, key=lambda j: (j.p is None, j.p or 0.0, j.verdict != "agrees"))
    verdicts: list[Verdict] = [j.verdict for j in judged]
    verdict = "does not agree" if "does not agree" in verdicts else worst.verdict
    statistic = worst.statistic
    if worst.p is None and worst.n >= REPLICATES:
        statistic = "the dense error has no standard deviation above zero: not judged"
    elif len(judged) > 1 and worst.p is not None:
        statistic = f"{statistic}; of the two tests, that with the larger p"
        for ((one, other), values), test in zip(differences.items(), judged, strict=True):
            if test is not worst:
                statistic += significant(values, dict.fromkeys(values, 0.0), f"{one} − {other}")
    return Judged(statistic, worst.n, worst.p, verdict).claim(PAPER, text, here)


def _nothing(values: Values, margin: float, either_way: bool) -> Judged:
    """Whether a difference of errors is below the margin: either way, or no higher."""
    zeros = dict.fromkeys(values, 0.0)
    if either_way or not margin > 0:
        return equal(values, zeros, margin, epsilon_text(margin))
    return not_higher(values, zeros, margin)


def _number(values: Values) -> str:
    return spread(values.values(), 3)
