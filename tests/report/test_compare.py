"""`sparselt report compare`: runs side by side, with tests that are right where the answer is known."""

import re

import pytest
from scipy import stats

from sparselt.cli.main import main
from sparselt.errors import SettingError, StoreError
from sparselt.experiments import EXPERIMENTS, varied_by
from sparselt.experiments.sections import sections_of
from sparselt.report.compare import compare

SECTIONS = sections_of(EXPERIMENTS)


def shifted(rows, level, by):
    """Rows whose ticket of a level, rewound to step 60, errs more."""
    ours = {"experiment": "imp", "variant": "imp", "rewind_step": 60, "level": level, "metric": "test_error"}
    return [row | {"value": row["value"] + by} if ours.items() <= row.items() else row for row in rows]


def values(rows, level):
    wanted = {"experiment": "imp", "variant": "imp", "rewind_step": 60, "level": level, "metric": "test_error"}
    return [row["value"] for row in rows if wanted.items() <= row.items()]


@pytest.fixture
def pair(tmp_path, invent):
    """A makes rows as they are; B of another seed errs 2 points more at level 5."""
    rows = invent.rows()
    first = invent.run(tmp_path / "a", rows)
    protocol = [["steps", 600, "ours"], ["learning rate", 0.1, "ours"]]
    changed = shifted(rows, 5, 0.02)
    return first, invent.run(tmp_path / "b", changed, invent.record(seed=1, protocol=protocol)), rows, changed


def test_the_differing_mean_comes_first_with_the_p_of_welch(pair):
    first, second, rows, changed = pair
    found = compare([first, second], SECTIONS)
    what, n, _, _, difference, p, *_ = found.differences.lines[0]
    assert what == "imp, imp, rewind 60, level 5, test error" and (n, difference) == ("4", "+2.00")
    expected = stats.ttest_ind(values(rows, 5), values(changed, 5), equal_var=False).pvalue
    assert float(p) == pytest.approx(expected, rel=0.05)
    assert ("learning rate", "0.3", "0.1") in found.runs.lines and "Welch" in found.notes[-1]
    assert not any(line[0] == "steps" for line in found.runs.lines)


def test_runs_of_one_seed_are_paired(tmp_path, invent):
    rows = invent.rows()
    folders = [invent.run(tmp_path / "a", rows), invent.run(tmp_path / "b", shifted(rows, 5, 0.02))]
    found = compare(folders, SECTIONS)
    assert "paired differences" in found.notes[-1]
    assert float(found.differences.lines[0][5]) == pytest.approx(0.5**3, abs=0.006)


def test_paired_means_are_over_the_replicates_of_both_runs(tmp_path, invent):
    """B has 12 dense networks, of which 2 are A's replicates, moved by 1 point; the others err more by far."""
    rows = invent.rows(replicates=2)
    of_dense = [row for row in rows if row["variant"] == "dense" and row["metric"] == "test_error"]
    others = [row | {"replicate": k, "value": 0.5 + 0.01 * k} for row in of_dense[:1] for k in range(2, 12)]
    moved = [
        row | {"value": row["value"] + 0.01 + 0.001 * row["replicate"]} if row in of_dense else row for row in rows
    ]
    folders = [invent.run(tmp_path / "a", rows), invent.run(tmp_path / "b", moved + others)]
    found = compare(folders, SECTIONS)
    (line,) = (line for line in found.differences.lines if "dense" in line[0])
    first, second, difference = line[2], line[3], line[4]
    assert (line[1], difference) == ("2", "+1.05")
    assert float(second.split()[0]) - float(first.split()[0]) == pytest.approx(1.05, abs=0.011)
    assert "in the replicates of both runs" in found.notes[-1]


def test_welchs_test_names_both_numbers_of_replicates(tmp_path, invent):
    rows = invent.rows()
    fewer = [row for row in rows if row["replicate"] < 3]
    folders = [invent.run(tmp_path / "a", rows), invent.run(tmp_path / "b", fewer, invent.record(seed=1))]
    assert {line[1] for line in compare(folders, SECTIONS).differences.lines} == {"4, 3"}


def test_errors_and_barriers_are_averaged_apart(tmp_path, invent):
    rows = invent.rows()
    moved = [row | {"value": row["value"] + 0.01} if row["metric"] == "barrier" else row for row in rows]
    found = compare([invent.run(tmp_path / "a", rows), invent.run(tmp_path / "b", moved)], SECTIONS)
    assert re.search(r"B − A is \+0\.000 points over \d+ mean test errors and \+1\.000 points over", found.notes[-1])


def test_values_of_experiments_that_no_run_has_are_not_listed(tmp_path, invent):
    protocols = [[["landscape_points", side, "ours"], ["heat_map", side > 9, "ours"]] for side in (9, 11)]
    folders = [
        invent.run(tmp_path / f"{side}", invent.rows(), invent.record(seed=side, protocol=protocol))
        for side, protocol in enumerate(protocols)
    ]
    listed = [line[0] for line in compare(folders, SECTIONS, varied_by(EXPERIMENTS)).runs.lines]
    assert "heat_map" in listed and "landscape_points" not in listed
    assert "landscape_points" in [line[0] for line in compare(folders, SECTIONS).runs.lines]


def test_nothing_is_said_of_findings_that_no_run_judges(tmp_path, invent):
    folders = [invent.run(tmp_path / str(k), invent.rows(), invent.record(synthetic=True, seed=k)) for k in (0, 1)]
    assert not any(note.startswith("Of ") for note in compare(folders, SECTIONS).notes)


def test_means_that_no_test_can_compare_are_counted(pair, tmp_path, invent):
    first, _, rows, _ = pair
    alone = [row for row in rows if row["replicate"] == 0 or row["variant"] == "dense"]
    found = compare([first, invent.run(tmp_path / "c", alone, invent.record(seed=3))], SECTIONS)
    assert "further means could not be tested, for lack of replicates or of spread" in found.notes[-1]


def test_verdicts_stand_side_by_side_and_are_counted(pair, tmp_path, invent):
    first, second, *_ = pair
    third = invent.run(tmp_path / "c", invent.rows(dense=0.3), invent.record(seed=2))
    found = compare([first, second, third], SECTIONS)
    assert found.differences is None and len(found.verdicts.lines) > 5
    assert all(len(line) == 5 for line in found.verdicts.lines)
    (text,) = (note for note in found.notes if note.startswith("Of "))
    same = sum(len({cell.split(" (")[0] for cell in line[2:]}) == 1 for line in found.verdicts.lines)
    assert f"{same} have the same verdict in all" in text


def test_the_command_prints_and_writes_markdown(pair, tmp_path, capsys):
    first, second, *_ = pair
    assert main(["report", "compare", str(first), str(second)]) == 0
    assert "learning rate" in capsys.readouterr().out
    page = tmp_path / "compared.md"
    assert main(["report", "compare", str(first), str(second), "--markdown", str(page)]) == 0
    assert "| imp, imp, rewind 60, level 5, test error |" in page.read_text()


def test_bad_input_is_named(pair, tmp_path, invent):
    first, _, rows, _ = pair
    with pytest.raises(SettingError, match="expected two different ones"):
        compare([first, first], SECTIONS)
    with pytest.raises(StoreError, match="is not a folder"):
        compare([first, tmp_path / "nowhere"], SECTIONS)
    lone = [row for row in rows if row["replicate"] == 0]
    single = invent.run(tmp_path / "one", lone, invent.record(replicates=1, seed=5))
    with pytest.raises(SettingError, match="share no error or barrier of two replicates"):
        compare([first, single], SECTIONS)
