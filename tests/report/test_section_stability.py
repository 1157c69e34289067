"""The section on stability, from invented numbers: the paper's findings, their opposite, and odd runs."""

import dataclasses
import math
import random

import pytest

from sparselt.experiments.stability.report import SECTION
from sparselt.report.data import Data
from sparselt.report.results import Row

UNSEEN = "cannot be seen at this scale"


def rows(replicates=5, steps=(0, 60, 200), rates=("standard", "low", "warmup"), levels=(8,), stable=True, change=None):
    """Invented: IMP is stable from step 60 on and at low rates, random masks never; if not `stable`, IMP never is."""
    rng = random.Random(0)
    for rate in rates:
        for replicate in range(replicates):
            yield Row("i", "mini", "stability", "dense", replicate, None, 0, 1.0, "test_error", 0.01, None, None, None,
                      f"rate={rate}")  # fmt: skip
            for level in levels:
                for step in steps if rate == "standard" else (0,):
                    for variant in ("imp", "random"):
                        good = stable and variant == "imp" and (step > 0 or rate != "standard")
                        angle = rng.gauss(20 - step / 20 if good else 86, 1)
                        place = ("i", "mini", "stability", variant, replicate, step, level, 0.8**level)
                        error = angle / 2000
                        numbers = [("test_error", error, "")]
                        for kind in ("pruning", "order"):
                            numbers += [("angle", angle, kind), ("l2_distance", angle / 5, kind)]
                        for metric, number, kind in numbers:
                            condition = f"rate={rate}" + (f" stability={kind}" if kind else "")
                            number = change(metric, number, replicate) if change else number
                            yield Row(*place, metric, number, None, None, None, condition)


def data(**shape) -> Data:
    return Data(list(rows(**shape)), {})


def verdicts(**shape) -> list[str]:
    return [claim.verdict for claim in SECTION.claims(data(**shape))]


def test_the_papers_findings_agree_where_the_numbers_have_them():
    found = SECTION.claims(data())
    assert [claim.verdict for claim in found] == ["agrees"] * 8
    assert [claim.n for claim in found] == [5] * 7 + [15]


def test_subnetworks_that_are_never_stable_support_only_the_finding_at_initialization():
    found = verdicts(stable=False)
    assert found[2:4] == ["agrees", "agrees"]
    assert "agrees" not in found[:2] + found[4:7]


def test_random_masks_that_are_more_stable_contradict_the_paper():
    turned = {"imp": "random", "random": "imp"}
    swapped = [dataclasses.replace(row, variant=turned.get(row.variant, row.variant)) for row in data().rows]
    assert [claim.verdict for claim in SECTION.claims(Data(swapped, {}))][:2] == ["does not agree"] * 2


def test_stability_at_initialization_contradicts_the_paper():
    late = [row for row in data().rows if row.rewind_step == 200]
    moved = [dataclasses.replace(row, rewind_step=0) for row in late]
    verdict = next(c.verdict for c in SECTION.claims(Data(moved, {})) if "no more stable" in c.claim)
    assert verdict == "does not agree"


def test_where_a_later_step_is_more_stable_but_errs_more_the_two_do_not_improve_together():
    worse = [
        dataclasses.replace(row, value=row.value + 0.01 + 0.0001 * row.replicate)
        if (row.variant, row.rewind_step, row.metric) == ("imp", 200, "test_error")
        else row
        for row in data().rows
    ]
    claim = SECTION.claims(Data(worse, {}))[-1]
    assert claim.verdict == UNSEEN and claim.p < 0.05
    assert "but from one step to the next one rises and the other falls; the contrary: p = " in claim.statistic


def test_imp_is_judged_at_the_step_of_the_protocol_and_at_the_last_without():
    assert "at step 200 " in SECTION.claims(data())[0].here
    declared = {"protocol": [["control_rewind_step", 60, ""]]}
    assert "at step 60 " in SECTION.claims(Data(data().rows, declared))[0].here


def test_of_two_levels_the_one_nearest_to_a_sixth_is_judged():
    assert all("16.8% of the weights" in c.here for c in SECTION.claims(data(levels=(4, 8, 12))) if "weights" in c.here)


def test_the_later_the_more_stable_takes_every_step():
    late = [
        dataclasses.replace(row, value=row.value + 15) if (row.rewind_step, row.metric) == (200, "angle") else row
        for row in data().rows
    ]
    claim = next(c for c in SECTION.claims(Data(late, {})) if "the later the step" in c.claim)
    assert claim.verdict == "does not agree"  # 86, 17 and 25 degrees


CASES = {
    "one replicate": {"replicates": 1},
    "one step": {"steps": (60,), "rates": ("standard",)},
    "only step 0": {"steps": (0,)},
    "only a low rate": {"rates": ("low",)},
    "two levels": {"levels": (4, 8)},
    "angles not defined": {"change": lambda metric, number, replicate: math.nan if metric == "angle" else number},
    "a diverged replicate": {"change": lambda metric, number, replicate: math.nan if replicate == 1 else number},
    "everything zero": {"change": lambda metric, number, replicate: 0.0},
}


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
def test_odd_runs_are_reported_without_a_number_that_is_none(shape):
    found = data(**shape)
    texts = [*SECTION.findings(found), *(part for c in SECTION.claims(found) for part in (c.claim, c.here))]
    drawings = SECTION.drawings(found)
    texts += [text for drawing in drawings.values() for text in (drawing.heading, drawing.caption)]
    assert texts
    assert not any("nan" in text or "None" in text for text in texts)
    for drawing in drawings.values():
        drawing.figure.canvas.draw()


def test_one_replicate_judges_nothing():
    assert set(verdicts(replicates=1)) == {"not judged"}


def test_each_level_has_its_figure_and_the_rates_one():
    assert set(SECTION.drawings(data())) == {"stability_against_rewind", "stability_by_learning_rate"}
    names = SECTION.drawings(data(levels=(4, 8), rates=("standard",)))
    assert set(names) == {"stability_against_rewind_level_4", "stability_against_rewind_level_8"}


def test_what_the_learning_rates_are_beside_is_named_outside_of_the_data():
    axes = SECTION.drawings(data())["stability_by_learning_rate"].figure.axes
    assert not any(panel.get_legend() for panel in axes)
    assert {text.get_text() for text in axes[-1].texts} == {"IMP", "random mask", "dense"}
    assert all(text.get_position()[0] > 1 for text in axes[-1].texts)


def test_a_run_without_the_experiment_has_nothing_to_say():
    empty = Data([], {})
    assert (SECTION.drawings(empty), SECTION.findings(empty), SECTION.claims(empty)) == ({}, [], [])


def test_of_a_network_that_wins_at_initialization_stability_is_expected_there():
    late = [dataclasses.replace(row, rewind_step=0) for row in data().rows if row.rewind_step in (None, 200)]
    found = SECTION.claims(Data(late, {"wins_at_init": True}))
    assert [claim.verdict for claim in found if "succeeds from initialization" in claim.claim] == ["agrees"] * 2
    assert not any("no more stable" in claim.claim for claim in found)
