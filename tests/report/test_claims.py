"""How claims are shown, and what the page says of the rules that judge them."""

import io
import json
import re

import pytest
from rich.console import Console

from sparselt.errors import StoreError
from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.sections import sections_of
from sparselt.report import console_summary, rules, write_markdown, write_report
from sparselt.report.claims import claims_table, counted, notes
from sparselt.report.data import Claim, Data, Section
from sparselt.report.results import Row, condition_text, conditions
from sparselt.report.run import rules_record


def test_claims_are_escaped_on_the_page_and_in_markdown(tmp_path, invent):
    def page_of(claim):
        section = Section("Invented", lambda data: {}, lambda data: [], lambda data: [claim])
        return write_report(invent.run(tmp_path, invent.rows(levels=1)), {"imp": section}).read_text()

    claim = Claim("A & B 2021", "x < y", "1.0 | 2.0", "paired t(4) = 3.1", 5, 0.036, "agrees")
    assert "A &amp; B 2021" in page_of(claim) and "x &lt; y" in page_of(claim)
    line = claims_table([claim]).markdown().splitlines()[2]
    assert "1.0 \\| 2.0 | agrees | paired t(4) = 3.1; n = 5 | 0.036 | 0.036 | 0.036 |" in line
    nothing = Claim("A", "b", "–", "fewer than three replicates", 0, None, "not judged")
    assert claims_table([nothing]).lines[0][4] == "no replicate has what it compares; n = 0"
    assert claims_table([]).lines == []


def test_a_condition_is_read_by_name():
    read = conditions("batch_size=32 lr=0.1")
    assert read["lr"] == "0.1" and "batch_size" not in conditions("lr=0.1") and not conditions("")
    assert condition_text(read) == "batch_size=32 lr=0.1"


def test_the_markdown_page_is_made_from_the_run_and_leaves_nothing_where_it_cannot_be_written(tmp_path, invent):
    folder = invent.run(tmp_path, invent.rows(levels=2))
    write_markdown(folder, tmp_path / "page.md", sections_of(EXPERIMENTS))
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("# ") and "## What the run shows" in text and "Rewound to step 60" in text
    for bad in (tmp_path / "missing" / "page.md", tmp_path):
        with pytest.raises(StoreError):
            write_markdown(folder, bad, sections_of(EXPERIMENTS))
    assert not (tmp_path / "missing").exists()
    kept = (folder / "results.csv").read_bytes()
    with pytest.raises(StoreError, match="is a file of the run itself"):
        write_markdown(folder, folder / "results.csv", sections_of(EXPERIMENTS))
    assert (folder / "results.csv").read_bytes() == kept


def test_a_page_with_figures_links_to_files_beside_it(tmp_path, invent):
    folder = invent.run(tmp_path, invent.rows(levels=2))
    write_markdown(folder, tmp_path / "page.md", sections_of(EXPERIMENTS), figures=True)
    links = re.findall(r"!\[.+\]\((page/\w+\.png)\)", (tmp_path / "page.md").read_text())
    assert len(links) >= 2 and all((tmp_path / link).stat().st_size > 1000 for link in links)
    assert {path.name for path in (tmp_path / "page").iterdir()} == {link.removeprefix("page/") for link in links}
    (tmp_path / "other").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        write_markdown(folder, tmp_path / "other.md", sections_of(EXPERIMENTS), figures=True)
    assert not (tmp_path / "other.md").exists()


RULES = {"version": rules.VERSION, "digest": rules.digest(), "judged_before": []}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({}, "Exploratory: the rules are newer than its results, judged before by version 1."),
        ({"rules": RULES | {"judged_before": [1]}}, "Exploratory: the rules are newer than its results"),
        (
            {"rules": RULES, "explored_seeds": [0, 3]},
            "Exploratory: rules and hyperparameters were chosen on results of",
        ),
        ({"rules": RULES, "explored_seeds": [3]}, "Confirmatory: its seed is 0; rules and hyperparameters were chosen"),
        (
            {"rules": RULES, "explored_seeds": [3], "given": ["lr", "steps"]},
            "But lr and steps were given by the user: the run confirms only if these values were chosen before",
        ),
    ],
)
def test_the_page_says_which_version_judges_and_what_is_explored_and_what_confirmed(tmp_path, invent, record, says):
    folder = invent.run(tmp_path / "run", invent.rows(levels=8), invent.record(**record))
    write_markdown(folder, tmp_path / "page.md", sections_of(EXPERIMENTS))
    console = Console(width=200, file=io.StringIO())
    console_summary(folder, console, sections_of(EXPERIMENTS))
    page = write_report(folder, sections_of(EXPERIMENTS)).read_text()
    for text in (page, (tmp_path / "page.md").read_text(), console.file.getvalue()):
        text = " ".join(text.split())
        assert f"Judged by version {rules.VERSION} of the rules (sparselt/report/rules.py, {rules.digest()})." in text
        assert says in text


@pytest.mark.parametrize(
    ("of_run", "says"),
    [
        ({"version": rules.VERSION + 1, "digest": "f00"}, rf"version {rules.VERSION + 1} of the rules \(f00\), and"),
        ({"version": rules.VERSION, "digest": "edited"}, "this installation has version .* Install the version of"),
        ({"version": "two"}, "expected a mapping with a version of the rules"),
        ("two", "expected a mapping with a version of the rules"),
    ],
)
def test_a_run_that_is_judged_by_rules_that_are_not_here_is_refused(tmp_path, invent, of_run, says):
    folder = invent.run(tmp_path, invent.rows(levels=1), invent.record(rules=of_run))
    with pytest.raises(StoreError, match=says):
        write_report(folder, sections_of(EXPERIMENTS))
    assert not (folder / "report.html").exists()


def test_a_run_written_into_a_folder_remembers_the_rules_that_judged_it_before(tmp_path):
    path = tmp_path / "record.json"
    assert rules_record(tmp_path) == RULES
    for before, judged in (
        ({"seed": 0}, [1]),
        ({"rules": RULES}, []),
        ({"rules": RULES | {"judged_before": [1]}}, [1]),
    ):
        path.write_text(json.dumps(before))
        assert rules_record(tmp_path) == RULES | {"judged_before": judged}
    path.write_text("damaged")
    assert rules_record(tmp_path) == RULES


def test_each_p_stands_beside_those_corrected_for_the_tests_of_the_page_and_the_agreeing_are_counted():
    def claim(p, verdict="agrees"):
        return Claim("paper", "claim", "here", "t", 5, p, verdict)

    found = [claim(0.03), claim(None, "not judged"), claim(0.01), claim(0.5, "does not agree"), claim(0.02)]
    lines = [line[-3:] for line in claims_table(found).lines]
    assert lines[:3] == [("0.03", "0.06", "0.04"), ("–", "–", "–"), ("0.01", "0.04", "0.04")]
    data = Data([], {"evaluation": {"count": 500}})
    _, many, images = notes(found, data)
    assert "for all 4 tests of this page, 1 of the 3 that agree keeps p < 0.05 by Holm, 3 by Benjamini" in many
    assert images.startswith("One of the 500 test images is 0.20 points. All replicates share")
    assert notes([claim(None, "not judged")], data) == [] == notes([], data)
    assert notes([claim(0.5, "does not agree")], data)[1] == "Each verdict is that of its row alone."
    assert "Corrected for the only test of this page, 1 of the 1 that agrees keeps p" in notes([claim(0.01)], data)[1]


def test_verdicts_are_counted_in_sentences():
    def of(*verdicts):
        return [Claim("paper", "claim", "here", "t", 5, None, verdict) for verdict in verdicts]

    kinds = ("agrees", "does not agree", "cannot be seen at this scale", "not judged")
    one = "1 agrees with the paper, 1 does not agree, 1 cannot be seen at this scale and 1 was not judged."
    assert counted(of(*kinds)) == f"Of 4 findings, {one}"
    two = "2 agree with the paper, 2 do not agree, 2 cannot be seen at this scale and 2 were not judged."
    assert counted(of(*kinds, *kinds)) == f"Of 8 findings, {two}"
    assert counted(of("not judged")) == "Of 1 finding, 1 was not judged."


def test_what_the_number_of_test_images_allows_is_computed_from_it():
    dense = [Row("i", "mini", "imp", "dense", k, None, 0, 1.0, "test_error", 0.02) for k in range(3)]
    claim = Claim("paper", "claim", "here", "t", 5, 0.03, "agrees")
    text = notes([claim], Data(dense, {"evaluation": {"count": 10_000}}))[-1]
    assert "One of the 10,000 test images is 0.01 points" in text
    assert "the dense error of 2.00% would move by 0.14 (one sigma)" in text  # √(0.02 · 0.98 / 10,000)
