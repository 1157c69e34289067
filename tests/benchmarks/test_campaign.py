"""`sparselt bench campaign`: the arithmetic of its waterfall, its plans, and one run on few images."""

import json

import pytest

from sparselt.benchmarks import campaign, training_loops
from sparselt.reproduce import DEFAULT_SCALES
from sparselt.reproduce.bench import bench


def test_a_waterfall_compares_with_the_first_and_with_the_one_before():
    rows = campaign.waterfall({"slow": [4.0, 4.0, 4.0], "+ a": [2.0, 2.0, 2.0], "+ b": [1.0, 1.0, 4.0]}, images=8)
    assert [row["images_per_second"] for row in rows] == [2, 4, 8]
    assert [row["ratio"] for row in rows] == [1, 2, 4]
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert rows[2]["p20"] < rows[2]["p80"] == 8


def test_every_setting_has_a_plan_in_which_trainings_are_shared():
    rows = {row["setting"]: row for row in campaign.sharing()}
    assert set(rows) == set(DEFAULT_SCALES)
    assert all(row["alone"] > row["trainings"] for row in rows.values())
    cifar = rows["cifar10_resnet20"]
    # 4 dense, 3 rewind steps of 12 levels, 2 controls at 4 levels, in 4 replicates.
    assert cifar["trainings"] == 4 * (1 + 36 + 8)
    assert cifar["images"] == cifar["steps"] * 128


def test_the_campaign_measures_every_factor_and_writes_it_down(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(campaign, "IMAGES", 8)
    monkeypatch.setattr(training_loops, "BATCH", 4)
    assert bench(["campaign", "--rounds", "3", "--no-hours", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [row["factor"] for row in result["waterfall"]] == list(training_loops.LADDER)
    assert all(row["rounds"] == 3 and row["images_per_second"] > 0 for row in result["waterfall"])
    (written,) = tmp_path.glob("*-campaign.json")
    assert json.loads(written.read_text()) == result
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".png", ".svg"}


@pytest.mark.parametrize(("arguments", "words"), [(["--rounds", "1"], "3 or more"), (["--nothing"], "unrecognized")])
def test_what_the_campaign_cannot_do_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        bench(["campaign", *arguments])
    assert ended.value.code == 2 and words in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert bench(["campaign", "--out", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
