"""The section on rewinding to initialization, from invented numbers: the paper's findings, and odd runs."""

import dataclasses
import math
import random

import pytest

from sparselt.experiments.rewind_to_init.report import SECTION
from sparselt.report.data import Data
from sparselt.report.results import Row

BATCHES = ("batch_size=32 lr=0.1", "batch_size=128 lr=0.1")
WARM = ("batch_size=64 lr=0.3 warmup_steps=0", "batch_size=64 lr=0.3 warmup_steps=300")


def rows(replicates=5, batches=BATCHES, warm=WARM, repulsion=(2, -1), levels=6, change=None):
    """Invented: the last of `batches` and of `warm` is stable; λ = 2 undoes that, λ = −1 makes the first stable."""
    rng = random.Random(0)
    repelled = [f"{batches[-1 if strength > 0 else 0]} repulsion={strength}" for strength in repulsion if batches]
    for condition in (*batches, *warm, *repelled):
        last = [group[-1] for group in (batches, warm) if group]
        stable = (condition in last) if "repulsion" not in condition else "-1" in condition
        for replicate in range(replicates):

            def row(variant, level, metric, value, to_level=None, position=None, r=replicate, c=condition):
                value = change(metric, value, r) if change else value
                step = None if variant == "dense" else 0
                where = ("i", "mini", "rewind_to_init", variant, r, step, level, 0.64**level, metric, value)
                return Row(*where, to_level, position, None, c)

            dense = 0.012 + 0.0015 * (replicate - 2)
            yield row("dense", 0, "test_error", dense)
            for level in range(levels + 1):
                rise = 0.0 if stable else 0.006 * level
                yield row("imp", level, "angular_distance_to_initialization", rng.gauss(0.8, 0.02))
                for other in range(level + 1, levels + 1):
                    yield row("imp", level, "angular_distance", rng.gauss(0.3 if stable else 0.9, 0.02), other)
                for metric in ("threshold", "threshold_ratio", "bimodality"):
                    yield row("imp", level, metric, rng.gauss(0.6 if stable else 0.5, 0.01))
                if level:
                    yield row("imp", level, "test_error", dense + rise + abs(rng.gauss(0, 0.0005)))
                if level < levels and "repulsion" not in condition:
                    yield row("imp", level, "barrier", abs(rng.gauss(0.001 if stable else 0.5, 0.0005)), level + 1)
                if level in (0, levels):
                    for place in range(5):
                        yield row("imp", level, "weight_share", 0.2, position=place - 2.0)
            if condition in batches:
                yield row("dense", 0, "instability", rng.gauss(0.005 if stable else 0.4, 0.001), 0)
            if condition in (batches[-1:], *repelled) or condition == (batches or [""])[-1]:
                yield row("reinit", levels, "test_error", 0.05 + rng.gauss(0, 0.0005))


def data(**shape) -> Data:
    return Data(list(rows(**shape)), {})


def test_the_papers_findings_agree_where_the_numbers_have_them():
    found = SECTION.claims(data())
    assert [(claim.claim, claim.verdict) for claim in found if claim.verdict != "agrees"] == []
    assert len(found) == 14
    assert {claim.n for claim in found} == {5}


def test_an_empty_layer_is_no_condition_of_its_own():
    plain = data()
    where = ("i", "mini", "rewind_to_init", "imp", 0, 0, 6, 0.64**6, "empty_layer", 1.0)
    empty = [Row(*where, None, None, None, f"{condition} layer=blocks.2.weight") for condition in (*BATCHES, *WARM)]
    with_empty = Data([*plain.rows, *empty], {})
    assert SECTION.claims(with_empty) == SECTION.claims(plain)
    assert SECTION.findings(with_empty) == SECTION.findings(plain)


def test_tickets_that_match_all_the_same_are_not_removed_nor_found_where_they_do_not():
    def moved(condition, error):
        return [
            dataclasses.replace(r, value=error(r.value)) if (r.variant, r.condition) == ("imp", condition)
            and r.metric == "test_error" else r
            for r in rows(replicates=6)
        ]  # fmt: skip

    less, more = (f"{BATCHES[1]} repulsion=2", f"{BATCHES[0]} repulsion=-1")
    removed = SECTION.claims(Data(moved(less, lambda value: value - 0.024), {}))
    found = SECTION.claims(Data(moved(more, lambda value: value + 0.005), {}))
    assert next(c for c in removed if "removes" in c.claim).verdict == "does not agree"
    assert next(c for c in found if "finds tickets" in c.claim).verdict == "does not agree"


def test_tickets_that_err_less_than_the_dense_network_by_more_than_epsilon_do_not_match_it():
    better = [
        dataclasses.replace(r, value=r.value - 0.008) if (r.variant, r.metric) == ("imp", "test_error") else r
        for r in rows()
    ]
    claim = next(c for c in SECTION.claims(Data(better, {})) if c.claim.startswith("with it, networks can be"))
    assert claim.verdict == "does not agree"


def test_a_large_batch_that_is_no_more_stable_contradicts_the_paper():
    found = SECTION.claims(data(batches=("batch_size=128 lr=0.1", "batch_size=32 lr=0.1"), warm=(), repulsion=()))
    assert {claim.verdict for claim in found} == {"does not agree"}


def test_the_same_region_is_judged_at_medium_sparsity():
    claim = next(c for c in SECTION.claims(data()) if "medium" in c.claim)
    assert "from 41.0% down to 6.87%" in claim.here


def test_distances_of_successive_rounds_and_of_all_pairs_are_told_apart():
    texts = [text for text in SECTION.findings(data()) if "angular distance" in text]
    assert texts
    for text in texts:
        successive = "of successive rounds the mean barrier is" in text
        assert successive != ("the mean angular distance of all pairs of rounds, not of successive ones only," in text)


CASES = {
    "one replicate": {"replicates": 1},
    "one batch size": {"batches": BATCHES[:1]},
    "only warm-ups": {"batches": (), "repulsion": ()},
    "no warm-up": {"warm": ()},
    "no repulsion": {"repulsion": ()},
    "one level": {"levels": 1},
    "angles not defined": {"change": lambda metric, value, replicate: math.nan if "angular" in metric else value},
    "a diverged replicate": {"change": lambda metric, value, replicate: math.nan if replicate == 1 else value},
    "nothing finite": {"change": lambda metric, value, replicate: math.nan},
    "everything zero": {"change": lambda metric, value, replicate: 0.0},
}


@pytest.mark.parametrize("shape", CASES.values(), ids=CASES)
def test_odd_runs_are_reported_without_a_number_that_is_none(shape):
    found = data(**shape)
    texts = [*SECTION.findings(found), *(part for c in SECTION.claims(found) for part in (c.claim, c.here))]
    drawings = SECTION.drawings(found)
    texts += [text for drawing in drawings.values() for text in (drawing.heading, drawing.caption)]
    assert texts
    assert not any("nan" in text.lower().split() or "None" in text for text in texts)
    for drawing in drawings.values():
        drawing.figure.canvas.draw()


def test_one_replicate_judges_nothing():
    found = SECTION.claims(data(replicates=1))
    assert {(claim.verdict, claim.statistic) for claim in found} == {("not judged", "fewer than three replicates")}


def test_every_measurement_has_its_figure():
    assert set(SECTION.drawings(data())) == {
        "init_barriers",
        "init_errors",
        "init_angles",
        "init_histograms",
        "init_repulsion",
    }


def test_a_run_without_the_experiment_has_nothing_to_say():
    empty = Data([], {})
    assert (SECTION.drawings(empty), SECTION.findings(empty), SECTION.claims(empty)) == ({}, [], [])


def test_error_axes_hold_their_bars_and_the_caption_names_the_panel_with_reinitialized_networks():
    drawings = SECTION.drawings(
        data(change=lambda metric, value, k: value * (1 + k) if metric == "test_error" else value)
    )
    for name in ("init_errors", "init_repulsion"):
        for axes in drawings[name].figure.axes:
            ends = [point[1] for bars in axes.containers for point in bars[2][0].get_segments() for point in point]
            assert max(ends) <= axes.get_ylim()[1]
            assert axes.get_ylabel().endswith("(log scale)") == (axes.get_yscale() == "log")
    kept = [row for row in rows() if not (row.variant == "reinit" and BATCHES[0] in row.condition)]
    assert "in the panel λ = 2, batch 128 only" in SECTION.drawings(Data(kept, {}))["init_repulsion"].caption


def test_many_rounds_have_no_more_ticks_than_have_room_among_them_the_last():
    (axes,) = SECTION.drawings(data(replicates=2, levels=24, repulsion=()))["init_errors"].figure.axes
    places, texts = axes.get_xticks(), [text.get_text() for text in axes.get_xticklabels()]
    assert len(places) <= 16 and all(texts) and min(places) == pytest.approx(0.64**24)


def test_conditions_that_prune_by_other_shares_stand_at_their_own_densities():
    warm_only = [row for row in rows(levels=3) if "warmup" in row.condition]
    faster = [row for row in rows(levels=2, repulsion=()) if "warmup" not in row.condition]
    faster = [dataclasses.replace(row, density=0.3**row.level) for row in faster]
    drawings = SECTION.drawings(Data(warm_only + faster, {}))
    (axes,) = drawings["init_errors"].figure.axes
    ends = sorted(line.get_xdata()[-1] for line in axes.lines if len(line.get_xdata()) > 2)
    assert ends == pytest.approx([0.09, 0.09, 0.64**3, 0.64**3], rel=0.05)
    # Where the conditions end, 9% and 0.64³, and the levels of the one of most rounds.
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100", "64.0", "41.0", "26.2", "9.00"]
    for name in ("init_errors", "init_barriers"):
        caption = drawings[name].caption
        assert "solid: lr 0.1." in caption and "dotted: batch 64, lr 0.3." in caption
    (axes,) = drawings["init_barriers"].figure.axes
    starts = sorted(line.get_xdata()[0] for line in axes.lines if line.get_marker() in "osDv")
    assert starts == pytest.approx([0.3**0.5, 0.3**0.5, 0.8, 0.8], rel=0.05)  # halfway from 100% on the log axis
    assert len(drawings["init_histograms"].figure.axes) == 2 * 2
