"""Each section on rows that lack a metric altogether: what needs it is left out, and nothing raises."""

import re

import pytest
from test_section_adaptive import invented as adaptive
from test_section_connectivity import invented as connectivity
from test_section_criteria import rows as criteria
from test_section_flatness import invented as flatness
from test_section_imp import invented as imp
from test_section_landscape import invented as landscape
from test_section_retraining import rows as retraining
from test_section_rewind_to_init import rows as rewind_to_init
from test_section_siblings import rows as siblings
from test_section_stability import rows as stability

from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.sections import sections_of
from sparselt.report.data import Data, leads

SECTIONS = sections_of(EXPERIMENTS)
ROWS = {
    name: list(make())
    for name, make in {
        "imp": imp,
        "connectivity": connectivity,
        "landscape": landscape,
        "adaptive": adaptive,
        "flatness": flatness,
        "stability": stability,
        "rewind_to_init": rewind_to_init,
        "siblings": siblings,
        "criteria": criteria,
        "retraining": retraining,
    }.items()
}
LACKING = [(name, metric) for name, rows in ROWS.items() for metric in sorted({row.metric for row in rows})]
PARTS = sorted({(name, row.variant) for name, rows in ROWS.items() for row in rows})


def test_every_section_is_tried():
    assert ROWS.keys() == SECTIONS.keys()


@pytest.mark.parametrize(("name", "metric"), LACKING)
def test_a_metric_that_is_missing_leaves_out_only_what_needs_it(name, metric):
    _report(name, [row for row in ROWS[name] if row.metric != metric])


@pytest.mark.parametrize(("name", "variant"), PARTS)
def test_a_variant_that_is_missing_leaves_out_only_what_needs_it(name, variant):
    _report(name, [row for row in ROWS[name] if row.variant != variant])


def _report(name, rows):
    data = Data(rows, {})
    section = SECTIONS[name]
    assert all(section.findings(data))
    assert all(table.lines for table in section.tables(data))
    assert all(claim.here and claim.statistic for claim in section.claims(data))
    for drawing in section.drawings(data).values():
        assert drawing.figure.axes


ONE = re.compile(
    r"(?<!level )(?<!step )(?<!rewind )(?<!scale )(?<![\d.,–-])\b1 "
    r"(networks|pairs|levels|trainings|replicates|tests|runs|steps|siblings|prunings|masks|were|are|have|keep|agree|do"
    r"|that do|that match)\b|\ball 1\b"
)
SMALL = {
    "one replicate": lambda row: row.replicate == 0,
    "two replicates": lambda row: row.replicate < 2,
    "one level": lambda row: row.level <= 1,
    "two levels": lambda row: row.level <= 2,
    "one level of one replicate": lambda row: row.level <= 1 and row.replicate == 0,
    "few of one kind": lambda row: row.level <= 2 and row.metric not in ("barrier", "path_error"),
}


@pytest.mark.parametrize("small", SMALL)
@pytest.mark.parametrize("name", ROWS)
def test_no_sentence_counts_one_of_a_thing_in_the_plural(name, small):
    data = Data([row for row in ROWS[name] if SMALL[small](row)], {})
    section = SECTIONS[name]
    texts = [*section.findings(data), *(part for c in section.claims(data) for part in (c.here, c.statistic))]
    texts += [drawing.caption for drawing in section.drawings(data).values()]
    texts += [table.note for table in section.tables(data)]
    for lead in leads(data, {name: section}):
        texts += [*lead.findings(data), *(table.note for table in lead.tables(data, None))]
        texts += [drawing.caption for drawing in lead.drawings(data).values()]
    assert [text for text in texts if ONE.search(text)] == []
