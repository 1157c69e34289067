"""What the report says of adaptive pruning, from invented chains of levels."""

import dataclasses
import math
import random

import pytest

from sparselt.experiments.adaptive.report import SECTION
from sparselt.report.data import Data
from sparselt.report.results import Row
from sparselt.runs.ledger import Entry

CONDITION = "target=0.09"


def row(variant, replicate, level, density, metric, value, position=None) -> Row:
    step = None if variant == "dense" else 60
    place = ("invented", "mini", "adaptive", variant, replicate, step, level, density, metric, value)
    return Row(*place, position=position, condition=CONDITION)


def chain(variant, replicate, fractions, error, rng) -> list[Row]:
    """A schedule that prunes these fractions; its errors grow towards `error`."""
    rows, density = [], 1.0
    for level, fraction in enumerate(fractions):
        if variant == "adaptive":
            rows.append(row(variant, replicate, level, density, "fraction", fraction))
            rows.append(row(variant, replicate, level, density, "largest_fraction", fraction if level else 0.1))
        density *= 1 - fraction
        share = (level + 1) / len(fractions)
        rows.append(row(variant, replicate, level + 1, density, "test_error", error * share + rng.gauss(0, 0.0005)))
    return rows


def invented(replicates=5, error=0.02, schedule=(0.2, 0.6, 0.4, 0.3, 0.3, 0.25), seed=0) -> list[Row]:
    rng, rows = random.Random(seed), []
    for k in range(replicates):
        rows.append(row("dense", k, 0, 1.0, "test_error", 0.012 + 0.002 * (k % 3)))
        rows += chain("fixed", k, [0.2] * 11, 0.02, rng)
        rows += chain("adaptive", k, schedule + ((0.2,) if k == 1 else ()), error, rng)
    return rows


def data(rows, ledger=()) -> Data:
    return Data(rows, {}, ledger)


def test_fewer_trainings_at_equal_error_agree_with_both_claims():
    fewer, lossless = SECTION.claims(data(invented()))
    assert (fewer.verdict, lossless.verdict) == ("agrees", "agrees")
    assert "6.2 ± 0.4 against 11.0 ± 0.0" in fewer.here and fewer.n == lossless.n == 5 and fewer.p < 0.001


def test_a_higher_error_does_not_agree():
    fewer, lossless = SECTION.claims(data(invented(error=0.06)))
    assert (fewer.verdict, lossless.verdict) == ("agrees", "does not agree")


def test_a_lower_error_loses_no_accuracy():
    assert SECTION.claims(data(invented(error=0.01)))[1].verdict == "agrees"


def test_as_many_trainings_do_not_agree_nor_contradict():
    fewer = SECTION.claims(data(invented(schedule=(0.2,) * 11)))[0]
    assert fewer.verdict != "agrees"


def test_one_replicate_is_judged_by_nobody():
    for claim in SECTION.claims(data(invented(replicates=1))):
        assert (claim.verdict, claim.statistic, claim.p) == ("not judged", "fewer than three replicates", None)
    assert SECTION.drawings(data(invented(replicates=1)))


def test_the_findings_name_prunings_without_a_fraction_that_fits():
    texts = " ".join(SECTION.findings(data(invented())))
    assert "At 5 of 31 prunings no fraction that high" in texts and "20.0%" in texts
    assert "6.2 ± 0.4 trainings after the dense one, the fixed schedule 11.0 ± 0.0" in texts


def test_a_chain_that_was_cut_short_is_not_compared():
    rows = [r for r in invented() if not (r.variant == "adaptive" and r.level > 3)]
    assert SECTION.claims(data(rows)) == []
    assert "cannot be compared" in SECTION.findings(data(rows))[0]
    assert SECTION.drawings(data(rows))


@pytest.mark.parametrize("variant", ["adaptive", "fixed", "dense"])
def test_diverged_trainings_are_drawn_around(variant):
    rows = [
        Row(**{name: getattr(r, name) for name in Row.__slots__} | {"value": math.nan})
        if r.variant == variant and r.metric == "test_error"
        else r
        for r in invented()
    ]
    assert SECTION.drawings(data(rows))
    assert SECTION.findings(data(rows))
    assert SECTION.claims(data(rows))[1].verdict != "agrees" or variant == "dense"


def test_ticks_go_on_at_the_pace_of_the_fixed_schedule_to_the_sparsest_network_and_are_round_without_it():
    def densities(rows):
        bottom = SECTION.drawings(data(rows))["adaptive_pruning"].figure.axes[1]
        return [100 * place for place in bottom.get_xticks()]

    schedule = (0.7, 0.8, 0.3)  # to 4.2 and 3.4% of the weights, where the fixed schedule ends at 8.6%
    rows = invented(replicates=2, schedule=schedule)
    assert densities(rows) == pytest.approx([100 * 0.8**level for level in range(16)])
    assert densities([r for r in rows if r.variant != "fixed"]) == pytest.approx([100, 70, 50, 30, 20, 10, 7, 5])


def test_the_legend_counts_one_training_and_covers_no_line():
    top = SECTION.drawings(data(invented(replicates=1, schedule=(0.95,))))["adaptive_pruning"].figure.axes[0]
    labels = {text.get_text() for text in top.get_legend().get_texts()}
    assert labels == {"fixed, 11 trainings", "adaptive, 1 training"}
    top.figure.draw_without_rendering()
    assert top.get_legend().get_window_extent().y0 >= top.get_window_extent().y1


def test_ticks_are_the_densities_of_the_fixed_schedule_and_hollow_markers_are_seen_over_its_line():
    densities = {level: 0.8**level - 0.0001 * level for level in range(12)}
    rows = [
        dataclasses.replace(r, density=densities[r.level]) if r.variant == "fixed" else r
        for r in invented(replicates=2)
    ]
    bottom = SECTION.drawings(data(rows))["adaptive_pruning"].figure.axes[1]
    expected = [f"{100 * density:.3g}" for density in densities.values()]
    assert [float(text.get_text()) for text in bottom.get_xticklabels()][:12] == [float(text) for text in expected]
    hollow = [line for line in bottom.lines if line.get_markerfacecolor() == "white"]
    (fixed,) = [line for line in bottom.lines if len(line.get_xdata()) > 1]
    # Those of level 0, of either replicate, where the largest fraction is below the one that was pruned.
    assert [line.get_xdata()[0] for line in hollow] == [1.0, 1.0]
    assert all(line.get_zorder() > fixed.get_zorder() and line.get_markeredgecolor() != "white" for line in hollow)


def test_time_counts_the_searches():
    ledger = []
    for k in range(5):
        for level in range(7):
            ledger.append(("adaptive_prune", f"adaptive search, replicate {k}, rewind 60, level {level}", 1.0))
            ledger.append(("train", f"adaptive, replicate {k}, rewind 60, level {level + 1}", 2.0))
        ledger += [("train", f"replicate {k}, rewind 60, level {level + 1}", 2.0) for level in range(11)]
    entries = [Entry(str(n), kind, label, "ran", 1, seconds, "") for n, (kind, label, seconds) in enumerate(ledger)]
    (text,) = [text for text in SECTION.findings(data(invented(), entries)) if "In time" in text]
    assert "takes 85 ± 6% of" in text and "33% is spent searching" in text
    claim = SECTION.claims(data(invented(), entries))[1]
    assert "30% less computation time" in claim.claim and "85 ± 6%" in claim.here
    # Less than the fixed schedule's, and not by 30%.
    assert (claim.verdict, claim.n) == ("does not agree", 5) and ", below 70%" in claim.statistic
    fast = [dataclasses.replace(entry, seconds=0.1) if entry.kind == "adaptive_prune" else entry for entry in entries]
    assert SECTION.claims(data(invented(), fast))[1].verdict == "agrees"


def test_a_replicate_whose_seconds_are_not_known_has_no_time():
    entries = [Entry("0", "train", "replicate 0, rewind 60, level 1", "ran", 1, 2.0, "")]
    assert not any("In time" in text for text in SECTION.findings(data(invented(), entries)))
    assert not any("time" in claim.claim for claim in SECTION.claims(data(invented(), entries)))
