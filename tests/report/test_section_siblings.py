import dataclasses
import math
import random

import pytest

from sparselt.experiments.siblings.figures import Place, against, averaged, table
from sparselt.experiments.siblings.report import SECTION
from sparselt.report.data import Data
from sparselt.report.drawing import COLOURS
from sparselt.report.results import Row

TOO_FEW = "fewer than three replicates"

CHANCE = {0.2: (0.17, 0.15), 0.1: (0.09, 0.07)}


def rows(replicates=5, union=0.0, jaccard=(0.19, 0.35, 0.74), steps=(0, 20, 160), counts=(2, 10), dense=True, seed=0):
    """Invented: union off intersection by `union`; all other differences are noise of 0.05 points."""
    rng = random.Random(seed)

    def row(variant, replicate, step, level, density, metric, value, condition=""):
        where = ("invented", "paper", "siblings", variant, replicate, step, level, density, metric, value)
        return Row(*where, condition=condition)

    for replicate in range(replicates):
        if dense:
            yield row("dense", replicate, None, 0, 1.0, "test_error", rng.gauss(0.012, 0.002))
        for density, (layerwise, everywhere) in CHANCE.items():
            place = f"siblings=2 density={density:g}"
            for step, mean in zip(steps, jaccard, strict=True):
                values = {"jaccard": mean, "jaccard_layerwise_chance": layerwise, "jaccard_chance": everywhere}
                for metric, value in values.items():
                    noise = rng.gauss(0, 0.005)
                    yield row("siblings", replicate, step, 1, density, metric, value + noise, place)
            for level in (1, 2):
                single = rng.gauss(0.02, 0.0005)
                last = (replicate, steps[-1], level, density, "test_error")
                yield row("single", *last, single, f"siblings=1 density={density:g}")
                for count in counts:
                    place = f"siblings={count} density={density:g}"
                    for how, offset in (("union", union), ("intersection", 0.0)):
                        yield row(how, *last, single + offset + rng.gauss(0, 0.0005), place)
                        yield row(how, *last[:-1], "sibling_density", density / 2, place)
                        yield row(how, *last[:-1], "layer_density", 0.0, f"{place} layer=fc.weight")
            yield row("random", replicate, steps[-1], 1, density, "test_error", 0.03, place)


def data(**shape) -> Data:
    return Data(list(rows(**shape)), {})


def verdicts(**shape) -> list[str]:
    return [claim.verdict for claim in SECTION.claims(data(**shape))]


def test_every_finding_of_the_abstract_is_a_claim_with_n_and_p():
    found = SECTION.claims(data())
    assert [claim.verdict for claim in found] == ["agrees"] * 8
    assert all(claim.n == 5 and 0 <= claim.p < 0.05 for claim in found)
    assert "10 siblings" in found[-1].claim
    for way, claims in (("(one-shot,", found[2:5]), ("(in 2 prunings,", found[5:])):
        assert all(way in claim.claim for claim in claims)
        assert all("two one-sided t, margin ε = " in claim.statistic for claim in claims)


def test_iterative_siblings_are_judged_apart_from_one_shot_ones():
    worse = [
        dataclasses.replace(row, value=row.value + 0.02 + 0.0001 * row.replicate)
        if (row.variant, row.level, row.metric) == ("union", 2, "test_error")
        else row
        for row in rows()
    ]
    found = SECTION.claims(Data(worse, {}))
    assert [claim.verdict for claim in found] == ["agrees"] * 5 + ["does not agree"] * 3
    assert "; apart from zero, p < 0.0001" in found[5].statistic


def test_combined_masks_that_err_less_by_more_than_epsilon_do_not_match_either():
    better = [
        dataclasses.replace(row, value=row.value - 0.01 + 0.0001 * row.replicate)
        if (row.variant, row.metric) == ("union", "test_error")
        else row
        for row in rows()
    ]
    found = SECTION.claims(Data(better, {}))
    assert [claim.verdict for claim in found[2:5]] == ["does not agree"] * 3
    assert found[3].statistic.count("two one-sided t, margin ε = ") == 2


def test_masks_near_layerwise_chance_and_far_above_global_chance_are_more_similar_than_chance():
    near = SECTION.claims(data())[0]
    assert near.verdict == "agrees" and near.statistic.count("below a tenth of the way, ours") == 2
    apart = [
        dataclasses.replace(row, value=row.value - 0.05) if row.metric == "jaccard_chance" else row for row in rows()
    ]
    near, more, *_ = SECTION.claims(Data(apart, {}))
    assert (near.verdict, more.verdict) == ("does not agree", "agrees")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ({"jaccard": (0.5, 0.6, 0.74)}, {0: "does not agree"}),
        ({"jaccard": (0.19, 0.15, 0.12)}, {1: "does not agree"}),
        ({"union": 0.02}, {2: "does not agree", 3: "does not agree", 4: "does not agree"}),
        ({"replicates": 1}, dict.fromkeys(range(5), "not judged")),
        ({"dense": False}, {0: "agrees", 2: "not judged"}),
    ],
)
def test_a_claim_is_judged_as_the_numbers_say(shape, expected):
    found = verdicts(**shape)
    assert {place: found[place] for place in expected} == expected


@pytest.mark.parametrize("replicates", [1, 2])
def test_too_few_replicates_are_said_to_be_too_few_and_drawn_all_the_same(replicates):
    one = data(replicates=replicates)
    assert all(claim.statistic == TOO_FEW and claim.p is None for claim in SECTION.claims(one))
    assert SECTION.findings(one)
    assert set(SECTION.drawings(one)) == {"sibling_overlap", "sibling_error_160"}


def test_differences_are_paired_by_replicate_and_a_diverged_retraining_drops_its_replicate():
    whole = list(rows())
    one = next(k for k, row in enumerate(whole) if row.variant == "union" and row.metric == "test_error")
    broken = whole.copy()
    broken[one] = type(whole[one])(**{name: getattr(whole[one], name) for name in Row.__slots__} | {"value": math.nan})
    errors, fewer = (
        {place: v for place, v in table(Data(some, {}), "test_error").items() if place.levels == 1}
        for some in (whole, broken)
    )
    found = against(errors, "union", "single", [2, 10])
    by_hand = [
        errors[Place("union", 160, 1, count, density)][3] - errors[Place("single", 160, 1, 1, density)][3]
        for density in (0.2, 0.1)
        for count in (2, 10)
    ]
    assert found[3] == pytest.approx(sum(by_hand) / 4)
    assert against(fewer, "union", "single", [2, 10]) == {k: v for k, v in found.items() if k != 0}
    lost = Data(broken, {})
    assert "1 retraining diverged and is left out." in SECTION.findings(lost)
    assert SECTION.claims(lost)[2].n == 4
    assert SECTION.drawings(lost).keys() == SECTION.drawings(Data(whole, {})).keys()
    assert averaged([]) == {}


def test_findings_say_what_was_not_retrained_and_that_a_layer_is_empty():
    texts = SECTION.findings(data())
    assert "Masks after 0 and 20 steps of shared pretraining were compared, not retrained." in texts
    assert "Combined masks left no weight in fc.weight (80 masks)." in texts
    assert any("in 2 prunings" in text for text in texts)


def test_each_way_of_pruning_has_the_line_of_its_own_single_sibling():
    for axes in SECTION.drawings(data())["sibling_error_160"].figure.axes:
        level = [line for line in axes.lines if len({*line.get_ydata()}) == 1 and list(line.get_xdata()) == [0, 1]]
        assert {line.get_linestyle() for line in level if line.get_color() == COLOURS[2]} == {"-", "--"}


def test_overlap_alone_and_nothing_at_all_are_reported_without_error():
    overlap = Data([row for row in rows() if row.variant == "siblings"], {})
    assert list(SECTION.drawings(overlap)) == ["sibling_overlap"]
    assert len(SECTION.claims(overlap)) == 2
    assert SECTION.findings(overlap)
    empty = Data([], {})
    assert (SECTION.drawings(empty), SECTION.findings(empty), SECTION.claims(empty)) == ({}, [], [])
