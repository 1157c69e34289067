"""What the report says of lines between levels and copies, from invented barriers."""

import dataclasses
import math

import pytest

from sparselt.experiments.connectivity.report import SECTION
from sparselt.experiments.imp.levels import levels
from sparselt.experiments.imp.report import SECTION as IMP
from sparselt.report.data import Data, leads
from sparselt.report.results import Row

LEVELS = 8
FAR = 6


def row(experiment, variant, replicate, step, level, metric, value, to_level=None, condition="") -> Row:
    place = ("invented", "mini", experiment, variant, replicate, step, level, 0.8**level, metric, value)
    return Row(*place, to_level=to_level, condition=condition)


def invented(replicates=5, early=0.3, late=0.0005, rise=0.05) -> list[Row]:
    """Rewound to 60 all levels match and barriers are `late`. Rewound to 0 so do those up to level 4; later ones err by
    `rise` more, and barriers are `early`. ε is 0.11 points."""
    rows = []
    for k in range(replicates):
        wobble = 0.002 * (k % 2) - 0.001
        rows.append(row("imp", "dense", k, None, 0, "test_error", 0.02 + wobble))
        for step in (0, 60):
            for level in range(LEVELS + 1):
                good = step or level <= 4
                error = 0.02 + (0.0 if good else rise) + wobble
                rows += [row("imp", "imp", k, step, level, "test_error", error)] if level else []
                if level == LEVELS:
                    break
                barrier = (late if step or 0 < level < 4 else early) + 0.0001 * k * (1 + (step == 0))
                rows.append(row("connectivity", "imp", k, step, level, "barrier", barrier, level + 1))
            for variant, level in (("dense", 0), ("imp", 4), ("random", 4)):
                value = (0.5 if step == 0 else 0.01) + wobble * (1 + k)
                place = ("connectivity", variant, k, step, level)
                rows.append(row(*place, "instability", value, level, "between=copies"))
        for i in range(FAR + 1):
            rows.append(row("connectivity", "imp", k, 60, i, "max_error", 0.02, i, "between=levels"))
            for j in range(i + 1, FAR + 1):
                values = {"max_error": 0.02 + 0.01 * (j - i), "barrier": late * (j - i), "instability": late}
                rows += [
                    row("connectivity", "imp", k, 60, i, metric, value, j, "between=levels")
                    for metric, value in values.items()
                ]
    return rows


def verdicts(rows) -> list[str]:
    return [claim.verdict for claim in SECTION.claims(Data(rows, {}))]


def test_barriers_exactly_where_levels_fail_agree():
    claims = SECTION.claims(Data(invented(), {}))
    assert [claim.verdict for claim in claims] == ["agrees"] * 3 + ["does not agree"] + ["agrees"] * 2
    coincide, piecewise, none, pairwise, dense, ticket = claims
    assert coincide.n == 2 * (LEVELS - 1) and "both or neither at 14 of 14 pairs, 5 replicates" in coincide.here
    # Of the seven pairs rewound to 0 the three that match are those without a barrier: 1 / C(7, 3).
    assert coincide.p == pytest.approx(1 / 35)
    assert "0.1 ± 0.0 points rewound to step 60, 17.2 ± 0.0 to step 0, from level 1 to 8" in piecewise.here
    assert "over 7 pairs that match" in none.here and "margin" not in none.statistic
    assert ", below ε = 0.11 points (below 2 points: p < 0.0001)" in none.statistic
    # Distant levels lie behind barriers up to five times those of neighbours.
    assert "over 15 pairs, rewound to step 60" in pairwise.here
    assert "dense" in dense.claim and "41.0% of the weights" in ticket.here


def test_barriers_where_levels_match_and_none_where_they_fail_do_not_agree():
    assert verdicts(invented(early=0.0002, late=0.3))[:3] == ["does not agree"] * 3


def test_a_barrier_above_epsilon_is_one_although_it_is_below_two_points():
    separated = invented(late=0.005)
    assert verdicts(separated)[:3] == ["does not agree"] * 3
    # With the 2 points it would coincide at all pairs.
    assert "at 14 if barriers up to the 2 points" in SECTION.claims(Data(separated, {}))[0].here


def test_where_a_step_shows_one_side_only_it_tells_nothing_of_the_coincidence():
    """Rewound to 0 nothing matches and all is separated, to 60 the reverse: the rewind step may be all there is."""
    rows = [r for r in invented() if r.rewind_step != 0 or r.level > 4 or r.experiment != "imp"]
    rows += [row("imp", "imp", k, 0, level, "test_error", 0.5) for k in range(5) for level in range(1, 5)]
    rows = [
        row("connectivity", "imp", r.replicate, 0, r.level, "barrier", 0.3, r.to_level)
        if (r.metric, r.rewind_step, r.condition) == ("barrier", 0, "")
        else r
        for r in rows
    ]
    claim = SECTION.claims(Data(rows, {}))[0]
    assert "both or neither at 14 of 14 pairs" in claim.here
    assert (claim.p, claim.verdict) == (1.0, "cannot be seen at this scale")


def test_copies_that_stay_unstable_do_not_become_stable_although_they_become_more_so():
    rows = [
        row("connectivity", r.variant, r.replicate, 60, r.level, "instability", 0.1 + 0.001 * r.replicate, r.to_level,
            r.condition) if (r.metric, r.rewind_step) == ("instability", 60) and "copies" in r.condition else r
        for r in invented()
    ]  # fmt: skip
    assert verdicts(rows)[4:] == ["does not agree"] * 2


def test_a_run_that_shows_one_side_only_cannot_be_judged():
    assert verdicts(invented(rise=0.0, early=0.0001))[0] == "cannot be seen at this scale"


def test_one_replicate_is_judged_by_nobody():
    claims = SECTION.claims(Data(invented(replicates=1), {}))
    assert {(claim.verdict, claim.statistic) for claim in claims} == {("not judged", "fewer than three replicates")}


def test_far_pairs_and_copies_are_told():
    far, *copies = SECTION.findings(Data(invented(late=0.005), {}))
    # 21 pairs; the barrier is 0.5 points a level, below 2 for those up to 3 apart.
    assert far.startswith("Of 21 pairs of levels, rewound to step 60, 15 have a mean barrier below 2 points")
    assert "from level 0 to 6 it is 3.0, and it is largest, 3.0, from level 0 to 6" in far
    assert "On 0 of these lines the mean of the largest error is itself a matching one." in far
    assert len(copies) == 3 and copies[1].startswith("Instability of IMP's subnetwork at 41.0% of the weights")


def test_both_figures_are_drawn_and_none_without_their_rows():
    rows = invented()
    assert list(SECTION.drawings(Data(rows, {}))) == ["heat_map", "instability"]
    plain = [r for r in rows if not r.condition]
    assert SECTION.drawings(Data(plain, {})) == {} and SECTION.findings(Data(plain, {})) == []
    assert len(SECTION.claims(Data(plain, {}))) == 3


def test_without_the_networks_own_errors_matching_is_not_judged_but_barriers_are():
    data = Data([r for r in invented() if r.experiment == "connectivity"], {})
    piecewise, *copies = SECTION.claims(data)
    assert piecewise.verdict == "not judged" and piecewise.statistic.startswith("ε is not known")
    assert [claim.verdict for claim in copies] == ["agrees"] * 2
    assert len(SECTION.drawings(data)) == 2 and "matching" not in SECTION.findings(data)[0]


def test_rows_between_distant_levels_and_copies_leave_the_summary_alone():
    rows = invented()
    assert levels(Data(rows, {})) == levels(Data([r for r in rows if not r.condition], {}))


@pytest.mark.parametrize("lost", [{0}, {0, 1, 2, 3, 4}])
def test_diverged_rows_are_drawn_grey_or_not_at_all(lost):
    rows = [
        row("connectivity", r.variant, r.replicate, r.rewind_step, r.level, r.metric, math.nan, r.to_level, r.condition)
        if r.experiment == "connectivity" and r.replicate in lost
        else r
        for r in invented()
    ]
    data = Data(rows, {})
    assert len(SECTION.drawings(data)) == (2 if lost == {0} else 0)
    assert all(claim.here for claim in SECTION.claims(data)) and SECTION.findings(data)


@pytest.mark.parametrize(
    ("rise", "replicates", "texts"),
    [
        (0.0001, 5, ["all ≤ 0.11"]),
        (0.002, 5, ["≤ 0.11", "0.2", "0.5", "1", "1.2"]),
        (0.002, 1, ["all ≤ 2"]),
        (0.03, 1, ["≤ 2", "5", "10", "18"]),
    ],
)
def test_the_colours_of_barriers_begin_at_epsilon_where_it_is_known_and_promise_none_that_there_are_not(
    rise, replicates, texts
):
    drawing = SECTION.drawings(Data(invented(replicates, late=rise), {}))["heat_map"]
    drawing.figure.draw_without_rendering()
    bar = next(axes for axes in drawing.figure.axes if axes.get_ylabel() == "error barrier, points")
    assert [text.get_text() for text in bar.get_yticklabels()] == texts
    assert ("darkest up to ε = 0.11 points" if replicates > 1 else "darkest up to 2 points") in drawing.caption


def test_of_a_network_that_wins_at_initialization_no_barrier_and_stable_copies_are_expected_there():
    calm = [r for r in invented(early=0.0002, rise=0.0) if r.metric != "instability" or r.rewind_step == 60]
    calm += [dataclasses.replace(r, rewind_step=0) for r in calm if r.metric == "instability"]
    found = {claim.claim: claim.verdict for claim in SECTION.claims(Data(calm, {"wins_at_init": True}))}
    told = [verdict for text, verdict in found.items() if "initialization" in text]
    assert told == ["agrees"] * 3
    rough = SECTION.claims(Data(invented(), {"wins_at_init": True}))
    assert [c.verdict for c in rough if "initialization" in c.claim] == ["does not agree"] * 3


def alone(rows) -> list[Row]:
    """The rows as a run of `connectivity` alone leaves them, which measures the errors itself."""
    return [dataclasses.replace(r, experiment="connectivity") for r in rows]


def test_a_run_of_connectivity_alone_opens_with_its_barriers_and_judges_what_it_would_beside_imp():
    beside, own = Data(invented(), {}), Data(alone(invented()), {})
    assert SECTION.claims(own) == SECTION.claims(beside) and SECTION.findings(own) == SECTION.findings(beside)
    assert levels(own) == levels(beside)
    (lead,) = leads(own, {"connectivity": SECTION})
    drawn = lead.drawings(own)
    assert {"barriers", "error_against_density"} <= drawn.keys()
    assert drawn["error_against_density"].rows == "connectivity, metric test_error"
    assert any("barrier" in heading for heading in lead.tables(own, None)[0].headings)


def test_a_lead_that_sections_share_is_shown_once():
    sections = {"imp": IMP, "connectivity": SECTION}
    assert leads(Data(invented(), {}), sections) == [IMP.lead]
    assert leads(Data([], {}), sections) == []


def test_the_only_dashed_line_of_the_instability_figure_is_the_limit_and_figures_name_their_rows():
    drawings = SECTION.drawings(Data(invented(), {}))
    assert {look.line for look, _ in drawings["instability"].chart.lines}.isdisjoint({"--"})
    assert drawings["instability"].rows == "connectivity, metric instability, condition between=copies"
    assert drawings["heat_map"].rows == "connectivity, metrics max_error and barrier, condition between=levels"
    assert "Upright bars, in the interactive figure" in drawings["instability"].caption
