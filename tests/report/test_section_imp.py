"""What the report says of IMP's controls and variants, from invented errors."""

import dataclasses
import math

import pytest

from sparselt.experiments.imp.report import SECTION, VARIANTS
from sparselt.report.data import Data
from sparselt.report.results import Row

CHAINS = ("layerwise", "lr_rewinding", "fine_tuning")


def row(variant, replicate, step, level, value, metric="test_error", condition="") -> Row:
    place = ("invented", "mini", "imp", variant, replicate, step, level, 0.8**level, metric, value)
    return Row(*place, condition=condition)


def invented(replicates=5, early=0.0, late=0.0, control=0.04, levels=(1, 2, 3)) -> list[Row]:
    """Dense error 2% ± 0.2; IMP `early` above it rewound to step 0, `late` rewound to 60; controls `control` above."""
    rows = []
    for k in range(replicates):
        wobble = 0.002 * (k % 2) - 0.001
        rows.append(row("dense", k, None, 0, 0.02 + wobble))
        for level in levels:
            rows += [row("imp", k, 0, level, 0.02 + early + wobble + 0.0001 * k)]
            rows += [row("imp", k, 60, level, 0.02 + late + wobble)]
            rows += [row(variant, k, 60, level, 0.02 + late - 0.001 + wobble + 0.0001 * k) for variant in CHAINS]
        for variant in ("random", "reinit", "shuffled", "one_shot"):
            rows.append(row(variant, k, 60, 3, 0.02 + control + wobble + 0.0002 * k))
    return rows


def verdicts(rows) -> list[str]:
    return [claim.verdict for claim in SECTION.claims(Data(rows, {}))]


def test_tickets_that_match_early_only_and_beat_their_controls_agree():
    claims = SECTION.claims(Data(invented(early=0.05), {}))
    assert [claim.verdict for claim in claims] == ["agrees"] * 3
    assert all(claim.n == 5 for claim in claims)
    assert "at 51.2% of the weights error 1.98 ± 0.11% rewound to step 60, 7.00 ± 0.11% to step 0" in claims[0].here
    assert "levels whose mean matches: 1–3 rewound to step 60, none to step 0" in claims[0].here


def test_tickets_that_match_from_step_0_and_lose_to_their_controls_do_not_agree():
    assert verdicts(invented(early=-0.005, control=-0.01)) == ["does not agree"] * 3


def test_rewinding_to_0_that_matches_although_it_is_worse_does_not_agree():
    assert verdicts(invented(early=0.0004))[0] == "does not agree"


@pytest.mark.parametrize("late", [0.2, -0.01])
def test_errors_that_differ_from_the_dense_one_by_more_than_epsilon_either_way_do_not_match(late):
    rows = [
        dataclasses.replace(r, value=r.value + 0.0001 * r.replicate) if r.rewind_step == 60 else r
        for r in invented(early=0.3, late=late)
    ]
    assert verdicts(rows)[0] == "does not agree"
    unknown = SECTION.claims(Data([*rows, row("dense", 5, None, 0, math.nan)], {}))[0]
    assert unknown.verdict == "not judged" and unknown.statistic.startswith("ε is not known")


def test_level_and_step_are_those_nearest_to_a_sixth_and_of_the_protocol_whatever_the_errors_are():
    rows = invented(early=0.05, levels=range(1, 13))
    rows += [row("imp", k, 30, level, 0.5) for k in range(5) for level in range(1, 13)]
    for declared, step in ((30, 30), (60, 60), (90, 60)):
        claim = SECTION.claims(Data(rows, {"protocol": [["control_rewind_step", declared, ""]]}))[0]
        assert f"at 16.8% of the weights error {'50' if step == 30 else '1.98'}" in claim.here
        assert claim.verdict == ("agrees" if step == 60 else "does not agree")


def test_one_replicate_is_judged_by_nobody():
    claims = SECTION.claims(Data(invented(replicates=1, early=0.05), {}))
    assert {(claim.verdict, claim.statistic) for claim in claims} == {("not judged", "fewer than three replicates")}


def test_every_variant_is_compared_at_its_sparsest_level():
    texts = SECTION.findings(Data(invented(), {}))
    assert len(texts) == len(VARIANTS)
    assert (
        texts[0].startswith("Shuffled weights: 6.") and "n = 5, p < 0.0001" in texts[0] and "0 of 1 level." in texts[0]
    )
    assert "below IMP's at 3 of 3 levels" in texts[-1] and texts[-1].startswith("Fine-tuned")


def test_a_variant_of_fewer_replicates_stands_beside_imp_in_the_same_ones():
    rows = [r for r in invented() if r.variant not in VARIANTS or r.replicate in (0, 2, 4)]
    text = next(text for text in SECTION.findings(Data(rows, {})) if text.startswith("Fine-tuned"))
    # IMP errs on 1.9% in these three, on 2.1% in the other two.
    assert "where IMP has 1.90 ± 0.00% in the same replicates" in text and "n = 3, p = " in text
    assert "below IMP's at 3 of 3 levels" in text


def test_the_figure_of_variants_is_drawn_only_where_there_are_some():
    assert list(SECTION.drawings(Data(invented(), {}))) == ["variants"]
    plain = [r for r in invented() if r.variant not in VARIANTS]
    assert SECTION.drawings(Data(plain, {})) == {} and SECTION.findings(Data(plain, {})) == []


def test_the_caption_of_variants_says_of_how_many_replicates_each_is_where_they_differ():
    assert "Replicates" not in SECTION.drawings(Data(invented(), {}))["variants"].caption
    fewer = [r for r in invented() if r.variant not in ("layerwise", "one_shot") or r.replicate < 3]
    caption = SECTION.drawings(Data(fewer, {}))["variants"].caption
    assert (
        "5 of the dense network, IMP, shuffled weights, rate rewound and fine-tuned, 3 of one-shot and layer" in caption
    )


@pytest.mark.parametrize("lost", ["some", "all"])
def test_diverged_replicates_are_drawn_and_told(lost):
    rows = [
        row(r.variant, r.replicate, r.rewind_step, r.level, math.nan)
        if r.variant in VARIANTS and (lost == "all" or r.replicate == 0)
        else r
        for r in invented()
    ]
    data = Data(rows, {})
    assert len(SECTION.drawings(data)) == (lost == "some")
    assert len(SECTION.findings(data)) == len(VARIANTS) and len(SECTION.claims(data)) == 3


@pytest.mark.parametrize(("early", "verdict"), [(-0.01, "agrees"), (0.0, "agrees"), (0.05, "does not agree")])
def test_of_a_network_that_wins_at_initialization_the_error_there_is_judged_from_above(early, verdict):
    claim = SECTION.claims(Data(invented(early=early), {"wins_at_init": True}))[0]
    assert claim.verdict == verdict and "err no more than the dense network" in claim.claim
    assert not any("does not find" in claim.claim for claim in SECTION.claims(Data(invented(), {"wins_at_init": True})))
