"""What the report says of pruning criteria, from invented errors."""

import math

import pytest

from sparselt.experiments.criteria.report import SECTION
from sparselt.report import write_markdown
from sparselt.report.data import Data
from sparselt.report.results import Row

TOO_FEW = "fewer than three replicates"

CRITERIA = ("magnitude", "random", "snip", "grasp", "synflow")
LEVELS = (3, 6, 9)


def row(variant, replicate, step, level, value, condition="") -> Row:
    place = ("invented", "paper", "criteria", variant, replicate, step, level, 0.8**level, "test_error", value)
    return Row(*place, condition=condition)


def rows(replicates=5, above=0.03, chance=0.06, imp=(0.0, 0.0, 0.02), criteria=CRITERIA) -> list[Row]:
    """Dense error 2% ± 0.1; IMP above it by level; at initialization criteria `above` IMP, random pruning `chance`."""
    found = []
    for k in range(replicates):
        wobble = 0.0003 * (k - 2)
        found.append(row("dense", k, None, 0, 0.02 + wobble))
        for level, more in zip(LEVELS, imp, strict=True):
            found.append(row("imp", k, 200, level, 0.02 + more + wobble))
            for criterion in criteria:
                early = chance + 0.0002 * k if criterion == "random" else above + 0.0001 * k
                error = 0.02 + more + wobble
                found.append(row("one_shot", k, 0, level, error + early, f"criterion={criterion} when=initialization"))
                found.append(row("one_shot", k, 200, level, error + 0.001, f"criterion={criterion} when=training"))
    return found


def section_of(found):
    data = Data(found, {})
    return SECTION.findings(data), SECTION.claims(data), SECTION.drawings(data), SECTION.tables(data)


def test_criteria_between_imp_and_chance_agree_with_the_paper():
    claims = section_of(rows())[1]
    assert [claim.verdict for claim in claims] == ["agrees"] * 8
    assert all(claim.n == 5 and claim.p < 0.05 and "one-sided paired t(4)" in claim.statistic for claim in claims)
    assert "SNIP at initialization errs more" in claims[2].claim and "less than random" in claims[3].claim
    assert claims[2].here == (
        "7.02 ± 0.06% against 4.00 ± 0.05% at 13.4% of the weights; magnitude pruning once after training: 4.10 ± 0.05%"
    )


@pytest.mark.parametrize(
    ("shape", "verdict"),
    [
        ({"above": -0.01, "chance": -0.02}, "does not agree"),
        ({"replicates": 2}, "not judged"),
    ],
)
def test_a_claim_is_judged_as_the_numbers_say(shape, verdict):
    claims = section_of(rows(**shape))[1]
    assert [claim.verdict for claim in claims] == [verdict] * 8
    assert all((claim.statistic == TOO_FEW) == (claim.n < 3) for claim in claims)


@pytest.mark.parametrize("imp", [(0.0, 0.0, 0.02), (0.0, 0.02, 0.0), (0.0, 0.0, math.nan)])
def test_the_density_that_is_judged_is_the_one_nearest_to_a_sixth_whatever_was_measured(imp):
    findings, claims, *_ = section_of(rows(imp=imp))
    assert findings[0].startswith("At 13.4% of the weights, the level that is judged")
    assert all("at 13.4% of the weights" in claim.here for claim in claims)


def test_without_random_pruning_only_imp_is_compared_with():
    claims = section_of(rows(criteria=("snip", "pkg.scores:mine")))[1]
    assert [claim.verdict for claim in claims] == ["agrees"]
    assert "once after training" not in claims[0].here


def test_the_table_has_a_line_for_each_criterion_and_time_and_marks_what_matches():
    (table,) = section_of(rows())[3]
    assert table.headings == ("pruned by", "when", "51.2%", "26.2%", "13.4%")
    lines = {line[:2]: line[2:] for line in table.lines}
    assert next(iter(lines)) == ("IMP", "level by level") and len(lines) == 11
    assert lines["IMP", "level by level"] == ("2.00 ± 0.05*", "2.00 ± 0.05*", "4.00 ± 0.05")
    assert lines["SNIP", "at initialization"] == ("5.02 ± 0.06", "5.02 ± 0.06", "7.02 ± 0.06")
    assert "over 5 replicates" in table.note and "the dense network: 2.00 ± 0.05 (5 runs)" in table.note


def test_the_figure_has_imp_and_every_criterion_in_both_panels():
    drawing = section_of(rows())[2]["criteria"]
    for axes, when in zip(drawing.figure.axes, ("at initialization", "after training"), strict=True):
        assert axes.get_title() == f"pruned once {when}"
        texts = {text.get_text() for text in axes.texts}
        assert {"IMP", "SNIP", "GraSP", "SynFlow", "magnitude", "random", "dense + ε"} <= texts
    limits = {axes.get_ylim() for axes in drawing.figure.axes}
    assert len(limits) == 1


def test_a_diverged_training_is_marked_and_drops_its_replicate():
    found = rows()
    one = next(k for k, row in enumerate(found) if row.level == 9 and "snip when=init" in row.condition)
    broken = [row if k != one else row_with(row, math.nan) for k, row in enumerate(found)]
    _, claims, drawings, (table,) = section_of(broken)
    assert claims[2].n == claims[3].n == 4 and "†" in claims[2].here and drawings
    assert any("†" in cell for line in table.lines for cell in line)
    section_of([row_with(row, math.nan) for row in found])


def test_too_few_replicates_and_nothing_at_all_are_reported_without_error():
    findings, claims, drawings, _ = section_of(rows(replicates=1))
    assert findings and drawings and len(claims) == 8
    assert section_of([]) == ([], [], {}, [])


def test_the_table_stands_on_the_page_and_in_markdown(tmp_path, invent):
    from sparselt.report import write_report

    cells = [{name: getattr(row, name) for name in Row.__slots__} for row in rows()]
    folder = invent.run(tmp_path / "run", cells)
    page = write_report(folder, {"criteria": SECTION}).read_text()
    assert '<h2 id="criteria">' in page and ">SynFlow</td>" in page and "the dense mean plus ε" in page
    write_markdown(folder, tmp_path / "page.md", {"criteria": SECTION})
    assert "| IMP | level by level | 2.00 ± 0.05* |" in (tmp_path / "page.md").read_text()


def row_with(row: Row, value: float) -> Row:
    return Row(**{name: getattr(row, name) for name in Row.__slots__} | {"value": value})
