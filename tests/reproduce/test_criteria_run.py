"""Criteria in whole runs: IMP by another criterion, and the comparison with its part of the page."""

import csv
import json

from typed_command import reproduce

SHORT = ("digits_resnet8", "--scale", "smoke", "--replicates", "1", "--workers", "1", "--set", "steps=30")
SHORT += ("milestones=20", "rewind_steps=0,10", "variants=random", "dense_replicates=1")


def test_imp_prunes_by_another_criterion_and_scope_from_end_to_end(tmp_path):
    asked = ("criterion=snip", "scope=erk", "criteria=random,snip", "criteria_levels=2")
    result = reproduce(*SHORT, *asked, "--experiments", "imp", "criteria", cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "prune by a criterion" in result.stdout and "prune by magnitude" not in result.stdout
    assert "level by level" in result.stdout
    (folder,) = (tmp_path / "runs").glob("digits_resnet8-smoke-*")
    named = {name: value for name, value, _ in json.loads((folder / "record.json").read_text())["protocol"]}
    assert (named["criterion"], named["scope"], named["criteria"]) == ("snip", "erk", ["random", "snip"])
    with (folder / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "test_error"]
    levels = {(row["rewind_step"], row["level"]) for row in rows if (row["experiment"], row["variant"]) == ("imp",) * 2}
    assert levels == {(step, level) for step in ("0", "10") for level in ("1", "2")}
    once = {row["condition"]: row["density"] for row in rows if row["variant"] == "one_shot"}
    assert len(once) == 4 and len(set(once.values())) == 1
    page = (folder / "report.html").read_text()
    assert '<h2 id="criteria">' in page and "<h3>Test error by criterion and weights remaining</h3>" in page
    assert (folder / "figures" / "criteria.png").stat().st_size > 1000
