"""`sparselt bench campaign`: the arithmetic of its waterfall, its plans, and one run on few images."""

import contextlib
import io
import json

import pytest

from sparselt.benchmarks import campaign, training_loops
from sparselt.errors import SettingError
from sparselt.report.results import write_results
from sparselt.reproduce import SETTINGS


def test_a_waterfall_compares_with_the_first_and_with_the_one_before():
    rows = campaign.waterfall({"slow": [4.0, 4.0, 4.0], "+ a": [2.0, 2.0, 2.0], "+ b": [1.0, 1.0, 4.0]}, images=8)
    assert [row["images_per_second"] for row in rows] == [2, 4, 8]
    assert [row["ratio"] for row in rows] == [1, 2, 4]
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert rows[2]["p20"] < rows[2]["p80"] == 8


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder and the output of a campaign on eight images."""
    folder = tmp_path_factory.mktemp("campaign")
    with pytest.MonkeyPatch.context() as few, contextlib.redirect_stdout(io.StringIO()) as printed:
        few.setattr(campaign, "IMAGES", 8)
        few.setattr(training_loops, "BATCH", 4)
        arguments = ["--rounds", "3", "--no-hours", "--out", str(folder), "--json", "--device", "cpu"]
        assert campaign.main(arguments) == 0
    return folder, json.loads(printed.getvalue())


def test_every_setting_has_a_plan_in_which_trainings_are_shared(measured):
    rows = {row["setting"]: row for row in measured[1]["settings"]}
    assert set(rows) == set(SETTINGS)
    assert all(row["alone"] > row["trainings"] for row in rows.values())
    cifar = rows["cifar10_resnet20"]
    # At least 4 dense, 3 rewind steps of 12 levels, 2 controls at 4 levels, in 4 replicates.
    assert cifar["trainings"] >= 4 * (1 + 36 + 8)
    assert cifar["images"] == cifar["steps"] * 128


def test_the_campaign_measures_every_factor_and_writes_it_down(measured):
    folder, result = measured
    assert [row["factor"] for row in result["waterfall"]] == [
        *training_loops.LADDER,
        *training_loops.LIVE,
        training_loops.PROCESSES,
    ]
    assert all(row["rounds"] == 3 and row["images_per_second"] > 0 for row in result["waterfall"])
    (written,) = folder.glob("*-campaign.json")
    assert json.loads(written.read_text()) == result
    assert {path.suffix for path in folder.iterdir()} == {".json", ".png", ".svg"}


def test_shared_stages_are_counted_in_the_plan_of_the_cifar_setting(measured):
    result = measured[1]
    (shared,) = result["counted"]
    cifar = next(row for row in result["settings"] if row["setting"] == "cifar10_resnet20")
    assert shared["step"] == cifar["alone"] / cifar["trainings"]
    assert shared["ratio"] == pytest.approx(shared["step"] * result["waterfall"][-1]["ratio"])


def test_a_cohort_times_itself(monkeypatch):
    monkeypatch.setattr(training_loops, "BATCH", 4)
    seconds = campaign.measure({"cohort": training_loops.cohort(2, 8, "cpu")}, rounds=1, warm_up=0)["cohort"]
    assert len(seconds) == 1 and seconds[0] > 0


@pytest.mark.parametrize(("arguments", "words"), [(["--rounds", "1"], "3 or more"), (["--nothing"], "unrecognized")])
def test_what_the_campaign_cannot_do_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        campaign.main(arguments)
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert campaign.main(["--out", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused_before_anything_is_measured(tmp_path, capsys):
    assert campaign.main(["--run", str(tmp_path / "nope"), "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and "nope" in error and "training" not in error


def test_the_adaptive_schedule_is_counted_in_a_run_and_a_run_without_it_is_refused(tmp_path):
    place = {"setting": "invented", "scale": "mini", "experiment": "adaptive", "metric": "test_error", "value": 0.01}
    rows = [
        place | {"variant": variant, "replicate": k, "rewind_step": 60, "level": level, "density": 0.9**level}
        for variant, levels in (("fixed", (11, 11)), ("adaptive", (5, 6)))
        for k, most in enumerate(levels)
        for level in range(1, most + 1)
    ]
    write_results(tmp_path, [row | {"condition": "target=0.09"} for row in rows], {})
    assert campaign.adaptive_schedule(tmp_path)["step"] == 2.0
    cifar = [{"setting": "cifar10_resnet20", "alone": 9, "trainings": 3}]
    before = [{"images_per_second": 100.0, "ratio": 1.5}]
    shared, adaptive = campaign.counted(cifar, before, tmp_path)
    assert (shared["ratio"], adaptive["ratio"], adaptive["images_per_second_equivalent"]) == (4.5, 9.0, 600.0)
    write_results(tmp_path, [row | {"experiment": "imp"} for row in rows], {})
    with pytest.raises(SettingError, match="holds no adaptive pruning"):
        campaign.adaptive_schedule(tmp_path)
