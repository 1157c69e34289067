import base64
import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typed_command import SMALL, reproduce

from sparselt.data import SyntheticImages, write_dataset
from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.planning import chosen
from sparselt.experiments.run import run
from sparselt.experiments.where import Where
from sparselt.report import rules
from sparselt.reproduce import load_setting


def run_folder(folder: Path) -> Path:
    (found,) = (folder / "runs").glob("digits_resnet8-smoke-????????")
    return found


def contents(folder: Path) -> dict[str, bytes]:
    files = [
        "results.csv",
        "results.json",
        "samples.png",
        "figures/error_against_density.png",
        "figures/error_along_path.png",
    ]
    return {name: (run_folder(folder) / name).read_bytes() for name in files}


def test_a_run_leaves_the_plan_on_screen_and_every_promised_file(finished):
    folder, screen = finished
    assert "14 trainings serve all curves" in screen and "Estimated time" in screen
    assert screen.index("Estimated time") < screen.index("14 of 14 trainings done") < screen.index("matching")
    for name in ("report.html", "results.csv", "results.json", "ledger.csv"):
        assert (run_folder(folder) / name).stat().st_size > 1000 and name in screen
    with (run_folder(folder) / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {"dense", "imp", "random", "reinit"}
    assert {row["rewind_step"] for row in rows if row["variant"] == "imp"} == {"0", "20"}, (
        "1ep is 20 steps of 64 images"
    )
    samples = base64.b64encode((run_folder(folder) / "samples.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{samples}"' in (run_folder(folder) / "report.html").read_text()
    record = json.loads((run_folder(folder) / "results.json").read_text())["record"]
    assert record["synthetic"] is False and record["explored_seeds"] == [0]
    assert record["rules"] == {"version": rules.VERSION, "digest": rules.digest(), "judged_before": []}


def test_the_ledger_counts_each_stage_once_with_its_cost(finished):
    with (run_folder(finished[0]) / "ledger.csv").open() as file:
        rows = list(csv.DictReader(file))
    trainings = [row for row in rows if row["kind"] == "train"]
    assert len({row["stage"] for row in rows}) == len(rows) and len(trainings) == 14
    assert sum(int(row["steps"]) for row in trainings) == 2 * (30 + 2 * 30 + 2 * 10 + 10 + 30)
    assert all(row["status"] == "ran" and float(row["seconds"]) > 0 for row in trainings)


def test_run_again_finds_everything_and_writes_the_same_bytes(finished):
    folder, _ = finished
    before = contents(folder)
    began = time.monotonic()
    result = reproduce(*SMALL, cwd=folder, check=True)
    assert "Everything is in the store" in result.stdout and "0 of 0" not in result.stdout
    assert contents(folder) == before
    assert time.monotonic() - began < 15


def test_a_killed_run_goes_on_and_ends_with_the_bytes_of_one_never_killed(finished, tmp_path):
    command = [sys.executable, "-m", "sparselt.reproduce", *SMALL]
    killed = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 180  # seconds; a busy machine takes long to start the workers
    while len(list(tmp_path.glob("runs/store/train/*/stage.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    done = len(list(tmp_path.glob("runs/store/train/*/stage.json")))
    assert 3 <= done < 14
    other_workers = [part if part != "1" else "2" for part in SMALL]
    result = reproduce(*other_workers, cwd=tmp_path, check=True)
    assert f"{14 - done} of {14 - done} trainings done" in result.stdout
    assert contents(tmp_path) == contents(finished[0])
    assert not list((tmp_path / "runs" / "store" / "unfinished").iterdir())


def test_another_experiment_trains_nothing_anew(finished, tmp_path):
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    result = reproduce(
        *SMALL[: SMALL.index("--experiments")], "--experiments", "connectivity", cwd=tmp_path, check=True
    )
    assert "Everything is in the store" in result.stdout


def test_a_changed_model_is_named_in_the_title():
    setting = load_setting("digits_resnet8")
    assert setting.with_values(["model=resnet20"]).title == f"{setting.title} (changed: model=resnet20)"
    assert setting.with_values(["model=resnet8", "lr=0.1"]).title == setting.title
    assert setting.changed(model="resnet20", title="ResNet-20 on digits").title == "ResNet-20 on digits"


def test_a_changed_criterion_is_named_in_the_title():
    setting = load_setting("digits_resnet8")
    assert setting.title == "Iterative magnitude pruning of ResNet-8 on handwritten digits"
    of_random = setting.with_values(["criterion=random"])
    assert of_random.title == "Iterative pruning of ResNet-8 on handwritten digits (changed: criterion=random)"
    both = setting.changed(model="net:small", criterion="net:score")
    assert both.title.endswith(" on handwritten digits (changed: model=net:small, criterion=net:score)")
    assert of_random.retitled("data=own").title == f"{of_random.title[:-1]}, data=own)"


def test_other_data_than_the_titles_are_named_in_it(tmp_path, untimed):
    usual = load_setting("digits_resnet8", "smoke")
    images = SyntheticImages(train_count=128, test_count=64, channels=1, height=8, width=8, storage="raw")
    folder = tmp_path / "stripes"
    write_dataset(images, folder)
    counts = {"train_count": 128, "test_count": 64}
    for setting, data, named in (
        (usual.with_source(images), None, "data=SyntheticImages"),
        (usual.with_source(images).changed(criterion="random"), None, "criterion=random, data=SyntheticImages"),
        (usual.changed(**counts), folder, "data=stripes"),
    ):
        console = Console(file=io.StringIO(), width=200)
        experiments, left_out = chosen(["imp"], EXPERIMENTS, setting.checked())
        where = Where(data=data, out=tmp_path / "none", workers=1)
        run(setting.checked(), usual, experiments, left_out, where, console, dry_run=True)
        assert f"(changed: {named})" in " ".join(console.file.getvalue().split())


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path):
    result = reproduce("digits_resnet8", "--experiments", "main", "--dry-run", cwd=tmp_path, check=True)
    said = " ".join(result.stdout.split())
    places = [said.index(text) for text in ("322 trainings serve", "Estimated time", "Nothing was run")]
    assert places == sorted(places) and "would go to runs/digits_resnet8-mini-" in said
    assert "torch's default" not in said, "the protocol comes on request"
    assert not list(tmp_path.iterdir())


def test_the_protocol_is_printed_on_request_alone_or_before_the_plan(tmp_path):
    asked = ("imagenet_resnet50", "--experiments", "imp", "--protocol")
    alone = reproduce(*asked, cwd=tmp_path, check=True).stdout
    assert "rewound_momentum" in alone and "torchvision's" in alone and "trainings serve" not in alone
    simulated = ("--dry-run", "--gpus", "2", "--images-per-second", "1000")
    both = reproduce(*asked, *simulated, cwd=tmp_path, check=True).stdout
    assert both.startswith(alone) and "trainings serve" in both and "Nothing was run" in both
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_every_experiment_runs_at_smoke_scale_and_has_its_part_of_the_page(tmp_path):
    asked = ("criteria=random,snip,grasp,synflow", "criteria_levels=1,2")
    result = reproduce("digits_resnet8", "--scale", "smoke", "--set", *asked, cwd=tmp_path, check=True)
    folder = run_folder(tmp_path)
    with (folder / "results.csv").open() as file:
        found = {row["experiment"] for row in csv.DictReader(file)}
    assert found == set(EXPERIMENTS) and "New results require" in result.stdout
    page = (folder / "report.html").read_text()
    for name in set(EXPERIMENTS) - {"imp"}:
        assert f'<h2 id="{name}">' in page, name
    assert len(list((folder / "figures").glob("*.png"))) >= 12
    assert "The papers' findings" not in page, "a smoke run judges no claim"
