"""What the report says of planes and lines around solutions, from invented landscapes."""

import dataclasses
import math

import pytest

from sparselt.experiments.landscape.report import SECTION
from sparselt.report.data import Data
from sparselt.report.results import Row

LEVELS = 8
SIDE = 7


def row(experiment, replicate, step, level, metric, value, condition="", at=(None, None), variant="imp") -> Row:
    place = ("invented", "mini", experiment, variant, replicate, step, level, 0.8**level, metric, value)
    to_level = level + 1 if experiment == "landscape" else None
    return Row(*place, to_level=to_level, position=at[0], position_2=at[1], condition=condition)


def invented(replicates=5, far=0.3, near=0.0, rising=True, planes=True) -> list[Row]:
    """The error rises by `far` on the way to the next solution where IMP fails, rewound to 0 from level 5 on, by `near`
    where it matches."""
    rows = []
    for k in range(replicates):
        wobble = 0.004 * (k % 2) - 0.002
        rows.append(row("imp", k, None, 0, "test_error", 0.02 + wobble, variant="dense"))
        for step in (0, 60):
            errors_of = [0.02 if step or level <= 4 else 0.07 for level in range(LEVELS + 1)]
            rows += [row("imp", k, step, n, "test_error", error + wobble) for n, error in enumerate(errors_of) if n]
            for level in range(LEVELS):
                error, rise = errors_of[level], near if step or 0 < level < 4 else far
                away = 0.002 * (level if rising else LEVELS - level) ** 2 + 0.00005 * k * level
                for line, height in (("projection", away), ("next", rise)):
                    place = ("landscape", k, step, level)
                    errors = {0.0: error, 0.5: error + height, 1.0: error}
                    for position, value in errors.items():
                        rows.append(row(*place, "path_error", value, f"line={line}", (position, None)))
                    rows.append(row(*place, "max_error", error + height, f"line={line}"))
            if planes and k == 0:
                rows += _plane(step, 2)
    return rows


def _plane(step, level) -> list[Row]:
    networks = {"solution": (0.0, 3.0), "projection": (0.0, 0.0), "next_solution": (4.0, 0.0)}
    place = ("landscape", 0, step, level)
    rows = [row(*place, f"{name}_error", 0.02, "plane=grid", at) for name, at in networks.items()]
    for down in range(SIDE):
        for across in range(SIDE):
            value = min(0.9, 0.02 + 0.02 * ((across - 1) ** 2 + (down - 4) ** 2))
            rows.append(row(*place, "plane_error", value, "plane=grid", (across - 1.0, down - 1.0)))
    return rows


def verdicts(rows) -> list[str]:
    return [claim.verdict for claim in SECTION.claims(Data(rows, {}))]


def test_next_solutions_inside_exactly_where_imp_succeeds_agree():
    following, projections = SECTION.claims(Data(invented(), {}))
    assert (following.verdict, projections.verdict) == ("agrees", "agrees")
    assert following.n == 2 * (LEVELS - 1)
    assert following.here == "of 10 pairs that match 10 inside, of 4 that do not 4 outside; 5 replicates"
    assert following.p == pytest.approx(1 / 35)
    assert "by 0.00 ± 0.00 points at level 0 and by 9.87 ± 0.06 at level 7 (21.0% of the weights)" in projections.here
    assert "on average inside from level 0–1 of 0–7" in projections.here and projections.n == 5


def test_a_projection_that_stays_inside_or_is_never_inside_does_not_leave_the_set():
    for shift in (-0.0985, 0.1):
        rows = [
            dataclasses.replace(r, value=r.value + shift + 0.00001 * r.replicate)
            if (r.metric, r.condition) == ("max_error", "line=projection")
            else r
            for r in invented(planes=False)
        ]
        assert verdicts(rows)[1] == "does not agree"


def test_next_solutions_inside_where_imp_fails_do_not_agree():
    assert verdicts(invented(far=0.0, near=0.3, rising=False, replicates=6)) == ["does not agree", "does not agree"]


@pytest.mark.parametrize(("levels", "verdict"), [(4, "not judged"), (5, "not judged"), (6, "agrees")])
def test_a_projection_that_may_leave_the_set_at_sparser_levels_than_were_measured_is_not_judged(levels, verdict):
    rows = [r for r in invented(planes=False) if r.level < levels or (r.experiment, r.level) == ("imp", levels)]
    claim = SECTION.claims(Data(rows, {}))[1]
    assert claim.claim.startswith("at first the projection") and claim.verdict == verdict
    assert f"at level {levels - 1} ({100 * 0.8 ** (levels - 1):.1f}% of the weights)" in claim.here
    if verdict == "not judged":
        assert claim.statistic.startswith(f"the levels end at {100 * 0.8 ** (levels - 1):.1f}% of the weights, and")
        assert (claim.n, claim.p) == (5, None)


def test_one_replicate_is_judged_by_nobody():
    data = Data(invented(replicates=1), {})
    assert [claim.verdict for claim in SECTION.claims(data)] == ["not judged"]
    assert "cannot be judged" in SECTION.findings(data)[0]
    assert set(SECTION.drawings(data)) == {"planes", "rise_along_lines"}


def test_membership_is_counted_on_average_and_one_by_one():
    texts = SECTION.findings(Data(invented(), {}))
    # ε is 0.0022: of the projections' rises, 0.002 a squared level, those at levels 0 and 1 are within it.
    assert (
        texts[0].startswith("Rewound to step 0, the LCS-set") and "the next solution at 3 of 8 levels (1–3)" in texts[0]
    )
    assert "its projection at 2 of 8 levels (0–1) and the next solution at 8 of 8 levels (0–7)" in texts[1]
    assert "the next solution in 40 of 40" in texts[1]


def test_planes_are_drawn_where_there_are_some():
    found = SECTION.drawings(Data(invented(), {}))
    assert set(found) == {"planes", "rise_along_lines"}
    # Two panels, of either rewind step, and the colours.
    assert len(found["planes"].figure.axes) == 3
    assert not any(axes.texts for axes in found["planes"].figure.axes)
    assert found["planes"].figure.get_supxlabel() and found["planes"].figure.get_supylabel()
    for axes in found["rise_along_lines"].figure.axes:
        assert axes.get_yscale() == "symlog" and "linear to 1" in axes.get_ylabel()
    assert set(SECTION.drawings(Data(invented(planes=False), {}))) == {"rise_along_lines"}


def test_planes_of_a_single_level_stand_side_by_side_and_fill_their_figure():
    one_level = SECTION.drawings(Data(invented(), {}))["planes"].figure
    one_step = [r for r in invented() if r.condition != "plane=grid" or r.rewind_step]
    for figure in (one_level, SECTION.drawings(Data(one_step, {}))["planes"].figure):
        figure.draw_without_rendering()
        *panels, bar = figure.axes
        assert len({round(panel.get_position().y0, 6) for panel in panels}) == 1
        # What is left of the width beside the colour bar.
        taken = panels[-1].get_position().x1 - panels[0].get_position().x0
        assert taken > 0.85 * (bar.get_position().x0 - 0.12)


def test_a_plane_that_lies_in_the_set_as_a_whole_says_so_for_it_has_no_outline():
    rows = [
        dataclasses.replace(r, value=0.02) if r.metric == "plane_error" and r.rewind_step else r for r in invented()
    ]
    first, second, _ = SECTION.drawings(Data(rows, {}))["planes"].figure.axes
    assert [text.get_text() for text in second.texts] == ["all in the LCS-set"] and not first.texts


@pytest.mark.parametrize("lost", [{0}, {0, 1, 2, 3, 4}])
def test_diverged_networks_and_points_of_a_plane_are_drawn_and_told(lost):
    rows = [
        row(
            "landscape",
            r.replicate,
            r.rewind_step,
            r.level,
            r.metric,
            math.nan,
            r.condition,
            (r.position, r.position_2),
        )
        if r.experiment == "landscape" and r.replicate in lost
        else r
        for r in invented()
    ]
    data = Data(rows, {})
    assert set(SECTION.drawings(data)) == {"planes"} | ({"rise_along_lines"} if lost == {0} else set())
    assert len(SECTION.findings(data)) == 2 and len(SECTION.claims(data)) == 2
    assert SECTION.claims(data)[0].verdict != "agrees"


def test_a_run_of_the_landscape_alone_says_what_the_dense_network_errs_on():
    everything = invented(planes=False)
    alone = [dataclasses.replace(r, experiment="landscape") for r in everything]
    first = SECTION.findings(Data(alone, {}))[0]
    assert "The dense network errs on 1.96 ± 0.22%" in first and "at most 2.18%" in first
    assert not any("dense network errs" in text for text in SECTION.findings(Data(everything, {})))


def test_figures_name_their_rows_and_the_wedge_is_conditional():
    drawings = SECTION.drawings(Data(invented(), {}))
    assert drawings["planes"].rows == "landscape, metric plane_error, condition plane=grid"
    assert drawings["rise_along_lines"].rows.startswith("landscape, metrics max_error and path_error")
    assert "wedge of high error may appear" in drawings["planes"].caption
