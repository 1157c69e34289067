"""`sparselt runs`, and what a run holds from Python."""

import errno
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from typed_command import SMALL, reproduce

import sparselt.runs
from sparselt.cli.main import main
from sparselt.cli.terminal import print_table
from sparselt.errors import SettingError, StoreError
from sparselt.models import build_model
from sparselt.runs.claims import Claims
from sparselt.runs.folder import Run
from sparselt.runs.inventory import Inventory
from sparselt.runs.store import Store


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """The results of a finished run, for changes."""
    shutil.copytree(finished[0] / "runs", tmp_path / "runs")
    return tmp_path / "runs"


def run_in(out: Path) -> Path:
    """The run that `finished` made; a copy may have others."""
    return next(path.parent for path in sorted(out.glob("digits*/networks.csv")) if "reinit" in path.read_text())


def as_json(capsys, *arguments) -> dict:
    assert main(["runs", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_gives_its_results_weights_and_masks_by_name(finished):
    run = sparselt.runs.open(run_in(finished[0] / "runs"))
    assert set(run.results["variant"]) >= {"dense", "imp"} and run.results["level"].max() == 2
    mask, weights = run.mask(1, 20, 2), run.weights(1, 20, 2)
    assert mask.density == pytest.approx(0.64, abs=1e-3)
    assert all((weights[name][layer == 0] == 0).all() for name, layer in mask.items())
    network = build_model("resnet8", classes=10, channels=1, seed=0)
    network.load_state_dict(weights)
    assert run.mask(1, 20, 0) is None
    assert not torch.equal(run.weights(0, 0, 2)["fc.weight"], run.weights(0, 20, 2)["fc.weight"])
    density = run.results.query("variant == 'imp' and replicate == 1 and rewind_step == 20 and level == 2")["density"]
    assert density.iloc[0] == pytest.approx(mask.density)


def test_a_run_has_its_figures_by_name_and_is_a_path(finished):
    run = sparselt.runs.open(run_in(finished[0] / "runs"))
    assert "error_against_density" in run.figures and Path(run) == run.folder
    picture = run.figure("error_against_density")
    assert picture._repr_png_().startswith(b"\x89PNG") and picture.svg.exists()
    with pytest.raises(StoreError, match=r"has no figure 'error'; it has .*error_against_density"):
        run.figure("error")


def test_the_dense_network_needs_no_rewind_step(finished):
    run = sparselt.runs.open(run_in(finished[0] / "runs"))
    dense, same = run.weights(1, level=0), run.weights(1, 20, 0)
    assert all(torch.equal(tensor, same[name]) for name, tensor in dense.items())
    assert run.mask(replicate=1, level=0) is None and run.ticket(1, level=0).row.variant == "dense"


def test_several_networks_are_named_by_what_tells_them_apart(copied):
    run = sparselt.runs.open(run_in(copied))
    with pytest.raises(
        StoreError,
        match=r"several networks of replicate 1, level 2, variant imp; choose one by "
        r"rewind_step=0; rewind_step=20 \(in a terminal by options: --rewind-step\)$",
    ):
        run.weights(1, level=2)
    # As a setting with level_0=rewound leaves them, and an experiment at another rate.
    table = (run.folder / "networks.csv").read_text()
    of = {step: run.network(1, step, 2) for step in (0, 20)}
    lines = [f"imp,imp,,1,{step},0,{row.weights},\n" for step, row in of.items()]
    (run.folder / "networks.csv").write_text(table + "".join(lines))
    with pytest.raises(
        StoreError, match=r"choose one by rewind_step=0; rewind_step=20 \(in a terminal by options: --rewind-step\)$"
    ):
        sparselt.runs.open(run.folder).weights(1, level=0)
    assert sparselt.runs.open(run.folder).network(1, 20, 0).weights == of[20].weights
    (run.folder / "networks.csv").write_text(table + f"stability,dense,rate=low,1,,0,{of[0].weights},\n")
    with pytest.raises(
        StoreError, match="experiment='imp', condition=''; experiment='stability', condition='rate=low'"
    ):
        sparselt.runs.open(run.folder).weights(1, level=0)
    assert sparselt.runs.open(run.folder).network(1, level=0, condition="rate=low").weights == of[0].weights


def test_a_level_is_asked_for(finished):
    with pytest.raises(SettingError, match=r"level is None; expected a whole number; the run has .* levels 1 · 2 of"):
        sparselt.runs.open(run_in(finished[0] / "runs")).weights(1, 20)


def test_what_is_not_there_is_named_with_what_is(finished, tmp_path, copied):
    run = sparselt.runs.open(run_in(finished[0] / "runs"))
    with pytest.raises(StoreError, match=r"network of replicate 7, .*replicates 0 · 1, counted from 0, rewind steps"):
        run.weights(7, 20, 2)
    with pytest.raises(StoreError, match=r"rewind steps 20 and levels 2 of variant random; variants: dense · imp · "):
        run.weights(1, 0, 2, variant="random")
    with pytest.raises(StoreError, match=r"rewind steps 0 · 20 and levels 0 · 1 · 2; variants: dense · imp · "):
        run.weights(1, 0, 2, variant="randm")
    with pytest.raises(StoreError, match="not the folder of a finished run"):
        sparselt.runs.open(tmp_path)
    run = sparselt.runs.open(run_in(copied))
    path = run.folder / run.network(0, 20, 1).weights
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(StoreError, match="missing or damaged"):
        run.weights(0, 20, 1)
    (run.folder / "networks.csv").write_text("a,b\n1,2\n")
    with pytest.raises(StoreError, match=r"networks.csv is damaged \(its columns are"):
        sparselt.runs.open(run.folder).mask(0, 20, 1)


def test_list_names_runs_sizes_and_who_works_on_what(copied, capsys):
    claim = Claims(copied / "store" / "unfinished").take("train-0123456789")
    found = as_json(capsys, "list", copied)
    assert {run["state"] for run in found["runs"]} == {"done"} and all(r["made"] == r["stages"] for r in found["runs"])
    assert [work["stage"] for work in found["at_work"]] == ["train/0123456789"]
    assert found["store_bytes"] > 100_000
    assert main(["runs", "list", str(copied)]) == 0
    screen = capsys.readouterr().out
    assert "works on train/0123456789" in screen and run_in(copied).name in screen
    claim.leave(keep=False)


@pytest.mark.parametrize("name", ["record.json", "ledger.csv"])
def test_a_damaged_run_is_listed_as_such_and_keeps_gc_from_guessing(copied, capsys, name):
    folder = run_in(copied)
    (folder / name).write_text("{")
    states = {run["name"]: run["state"] for run in as_json(capsys, "list", copied)["runs"]}
    assert states[folder.name] == "damaged"
    if name == "ledger.csv":
        assert main(["runs", "gc", str(copied), "--yes"]) == 2
        assert "not known what the run needs" in capsys.readouterr().err
    assert len(list(copied.glob("store/train/*"))) == 14


def test_show_gives_the_files_of_one_network(finished, capsys):
    folder = run_in(finished[0] / "runs")
    chosen = ("--replicate", "1", "--rewind-step", "20", "--level", "2", "--variant", "imp")
    assert main(["runs", "show", str(folder), *chosen]) == 0
    weights, mask = capsys.readouterr().out.split()
    assert Path(weights).name == "final.safetensors" and Path(mask).is_file()
    assert main(["runs", "show", str(folder), "--level", "9"]) == 1
    assert "no network fits" in capsys.readouterr().err
    assert main(["runs", "show", str(folder.parent)]) == 2


@pytest.mark.parametrize("command", ["list", "show", "show --stages", "verify", "gc"])
def test_lines_are_no_wider_than_the_terminal(command, finished, capsys, monkeypatch):
    monkeypatch.chdir(finished[0])
    out = Path("runs")  # a long path stays whole, whatever the width
    name, *options = command.split()
    asked = ["runs", name, str(run_in(out) if name == "show" else out), *options]
    said = {}
    for columns in ("60", "80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(asked) == 0
        said[columns] = capsys.readouterr().out
        assert max(map(len, said[columns].splitlines())) <= int(columns), said[columns]
    if name == "show":
        assert "train/" in said["200"] and "Not shown" not in said["200"]
        assert "train/" not in said["60"] and "--json has all" in said["60"] and "0" in said["60"]


def test_a_column_that_does_not_fit_is_cut_and_one_that_may_be_spared_is_named(capsys, monkeypatch):
    lines = [("imp", "of=imp between=copies", "store/train/0123"), ("dense", "", "store/train/4567")]
    given = ("variant", "condition", "weights"), lines, ("weights",), "condition"
    shown = {}
    for columns in ("48", "28", "20"):
        monkeypatch.setenv("COLUMNS", columns)
        print_table(*given)
        shown[columns] = capsys.readouterr().out.splitlines()
    assert shown["48"] == [
        "variant  condition              weights",
        "imp      of=imp between=copies  store/train/0123",
        "dense                           store/train/4567",
    ]
    assert shown["28"][:3] == ["variant  condition", "imp      of=imp between=cop…", "dense"]
    assert "Not shown" in shown["28"][3] and shown["20"][1] == "imp      of=imp bet…"


def test_show_counts_and_lists_the_stages_of_a_run_that_has_not_ended(copied, capsys, monkeypatch):
    folder = run_in(copied)
    shutil.rmtree(copied / "store" / "path")
    training = sorted(copied.glob("store/train/*"))[0]
    shutil.rmtree(training)
    claim = Claims(copied / "store" / "unfinished").take(f"train-{training.name}")
    shutil.rmtree(folder)
    assert main(["runs", "show", str(folder)]) == 0
    screen = capsys.readouterr().out
    assert [line.split() for line in screen.splitlines() if line.startswith("train ")] == [["train", "13", "1"]]
    assert "at work" in screen and "to do" in screen and "--stages lists each" in screen
    found = as_json(capsys, "show", folder)
    states = {stage["stage"]: stage["state"] for stage in found["stages"]}
    assert found["run"] == folder.name and states[f"train/{training.name}"] == "at work"
    assert {state for stage, state in states.items() if stage.startswith("path/")} == {"to do"}
    (claim.folder / "progress-1").write_text("")
    claim.leave(keep=True)
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["runs", "show", str(folder), "--stages"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("begun")]
    assert len(lines) == 1 and f"train/{training.name}" in lines[0] and "replicate" in lines[0]
    assert main(["runs", "show", str(folder.with_name("none"))]) == 2
    assert main(["runs", "show", str(folder.with_name("none")), "--stages"]) == 2
    assert folder.name in capsys.readouterr().err


def test_show_lists_the_stages_of_a_run_that_has_ended_on_demand(finished, capsys):
    found = as_json(capsys, "show", run_in(finished[0] / "runs"), "--stages")
    assert found["state"] == "done" and {stage["state"] for stage in found["stages"]} == {"made"}


@pytest.mark.slow
def test_every_trained_network_is_listed_also_where_none_is_measured_by_itself(copied, capsys):
    values = [value.replace("instability_levels=", "instability_levels=1") for value in SMALL if value != "imp"]
    reproduce(*values, cwd=copied.parent, check=True)
    path = next(p for p in copied.glob("*/networks.csv") if "imp,imp" not in p.read_text())
    rows = sparselt.runs.open(path.parent).networks
    trained = {s["stage"] for s in as_json(capsys, "show", path.parent, "--stages")["stages"] if "train/" in s["stage"]}
    assert {"/".join(Path(row.weights).parts[-3:-1]) for row in rows} == trained and len(rows) == len(trained)
    assert {row.experiment for row in rows} == {"connectivity"}
    run = sparselt.runs.open(path.parent)
    assert run.mask(1, 20, 2).density == pytest.approx(0.64, abs=1e-3) and run.mask(1, level=0) is None
    copies = [row for row in rows if row.variant == "other"]
    assert {row.condition for row in copies} == {f"of={v} between=copies input=second" for v in ("imp", "random")}
    assert {(row.replicate, row.rewind_step, row.level) for row in copies} == {
        (r, s, 1) for r in (0, 1) for s in (0, 20)
    }


def test_a_missing_report_is_named_with_the_command_that_draws_it(copied, capsys):
    folder = run_in(copied)
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()  # a name that cannot be written
    assert main(["runs", "list", str(copied)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if folder.name in line]
    assert "no report" in said[0] and "python -m sparselt.reproduce" in said[1]
    again = reproduce(*SMALL, cwd=copied.parent)
    assert again.returncode == 2 and "Traceback" not in again.stderr
    assert "report.html cannot be written" in again.stderr and "the same command writes the results" in again.stderr
    (folder / "report.html").rmdir()
    reproduce(*SMALL, cwd=copied.parent, check=True)
    states = {run["name"]: run["state"] for run in as_json(capsys, "list", copied)["runs"]}
    assert states[folder.name] == "done"


def test_a_run_without_results_is_damaged_and_named_with_the_command_that_writes_them(copied, capsys):
    folder = run_in(copied)
    (folder / "results.csv").unlink()
    assert main(["runs", "list", str(copied)]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if folder.name in line]
    assert " damaged " in said[0] and "its command writes it again: python -m sparselt.reproduce" in said[1]
    assert main(["report", str(folder)]) == 2
    assert "results.csv does not exist: run the run's command again" in capsys.readouterr().err


def test_a_store_behind_a_link_gives_its_networks_and_is_named_by_the_link(copied, capsys):
    folder, store = run_in(copied), copied.parent / "elsewhere" / "store"
    table = (folder / "networks.csv").read_bytes()
    store.parent.mkdir()
    (copied / "store").rename(store)
    (copied / "store").symlink_to(store)
    assert main(["runs", "show", str(folder), "--level", "2"]) == 0
    weights = sparselt.runs.open(folder).weights(1, 20, 2)
    capsys.readouterr()
    # As an earlier version names files behind a link.
    (folder / "networks.csv").write_bytes(table.replace(b"../store", b"../../elsewhere/store"))
    assert torch.equal(sparselt.runs.open(folder).weights(1, 20, 2)["fc.weight"], weights["fc.weight"])
    reproduce(*SMALL, cwd=copied.parent, check=True)
    assert (folder / "networks.csv").read_bytes() == table


def test_list_tells_who_directs_a_run_from_who_works_on_a_stage(copied, capsys):
    name = run_in(copied).name
    with Store(copied / "store").present(name):
        assert main(["runs", "list", str(copied)]) == 0
        assert f"directs {name}\n" in capsys.readouterr().out


def test_the_store_counts_as_large_as_it_is_on_the_disk(copied, capsys):
    before = as_json(capsys, "list", copied)["store_bytes"]
    with next(copied.glob("store/train/*/final.safetensors")).open("r+b") as file:
        file.truncate(50_000_000)
    assert as_json(capsys, "list", copied)["store_bytes"] < before + 1_000_000


def test_verify_names_what_is_damaged(copied, capsys):
    assert main(["runs", "verify", str(copied)]) == 0
    path = next(copied.glob("store/train/*/final.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    capsys.readouterr()
    assert main(["runs", "verify", str(copied), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["damaged"] == [str(path)]


def test_gc_deletes_what_no_run_needs_after_asking_and_not_beside_a_run(copied, capsys, monkeypatch):
    assert main(["runs", "gc", str(copied)]) == 0
    assert "Every stored stage is needed" in capsys.readouterr().out
    for folder in {path.parent for path in copied.glob("*/record.json")}:
        shutil.rmtree(folder)
    trainings = list(copied.glob("store/train/*"))
    found = as_json(capsys, "gc", copied)
    assert len(found["stages"]) > len(trainings) and not found["deleted"] and trainings[0].exists()
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert main(["runs", "gc", str(copied)]) == 0 and trainings[0].exists()
    claim = Claims(copied / "store" / "unfinished").take("train-0123456789")
    assert main(["runs", "gc", str(copied), "--yes"]) == 2 and "works on" in capsys.readouterr().err
    claim.leave(keep=False)
    assert main(["runs", "gc", str(copied), "--yes"]) == 0 and "Deleted." in capsys.readouterr().out
    assert not list(copied.glob("store/train/*")) and as_json(capsys, "list", copied)["runs"] == []


def noted(out: Path, run: str, state: str) -> None:
    """Notes the plan of a run that `out` holds, as the run itself does when it is in this state."""
    path = out / "store" / "plans" / f"{run}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": state}))


def begun(out: Path, stage: str) -> Path:
    """The folder of a stage that was killed after its first save."""
    claim = Claims(out / "store" / "unfinished").take(stage)
    (claim.folder / "progress-000000000010-0123456789abcdef.safetensors").write_bytes(bytes(10_000))
    claim.leave(keep=True)
    return claim.folder.parent


def test_gc_keeps_what_a_run_needs_that_ended_while_it_asked(copied, capsys, monkeypatch):
    (folder,) = {path.parent for path in copied.glob("*/record.json")}
    stages, aside = len(list(copied.glob("store/*/*/stage.json"))), copied.parent / "aside"
    folder.rename(aside)

    def agrees(text: str) -> str:
        aside.rename(folder)
        return "y"

    monkeypatch.setattr("builtins.input", agrees)
    assert main(["runs", "gc", str(copied)]) == 0
    said = capsys.readouterr().out
    assert f"needs {stages} stages" in said and "Nothing was deleted: a run needs all of it by now." in said
    (run,) = as_json(capsys, "list", copied)["runs"]
    assert run["state"] == "done" and run["made"] == run["stages"] == stages


def test_gc_deletes_the_rest_if_a_run_needs_a_part_by_now(copied, capsys, monkeypatch):
    (folder,) = {path.parent for path in copied.glob("*/record.json")}
    spare = copied / "store" / "train" / ("0" * 20)
    shutil.copytree(next(copied.glob("store/train/*")), spare)
    folder.rename(copied.parent / "aside")

    def agrees(text: str) -> str:
        (copied.parent / "aside").rename(folder)
        return "y"

    monkeypatch.setattr("builtins.input", agrees)
    assert main(["runs", "gc", str(copied)]) == 0
    assert "Deleted 1 stage (1 train): " in capsys.readouterr().out
    assert not spare.exists() and as_json(capsys, "gc", copied)["stages"] == []


def test_gc_deletes_saves_that_no_run_needs_and_those_of_stopped_runs_if_asked(copied, capsys, monkeypatch):
    (folder,) = {path.parent for path in copied.glob("*/record.json")}
    training = sorted(copied.glob("store/train/*"))[0]
    shutil.rmtree(training)
    shutil.rmtree(folder)
    planned, other = begun(copied, f"train-{training.name}"), begun(copied, f"train-{'0' * 20}")
    noted(copied, folder.name, "stopped")
    # A stopped run may ask for more trainings than its plan names.
    nothing = {"stages": [], "begun": [], "plans": [], "bytes": 0}
    assert as_json(capsys, "gc", copied, "--yes") == {**nothing, "deleted": True}
    assert planned.exists() and other.exists()
    assert as_json(capsys, "list", copied)["runs"][0]["state"] == "stopped"
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert main(["runs", "gc", str(copied), "--stopped"]) == 0 and planned.exists()
    assert "and the saves of 2 unfinished stages: " in capsys.readouterr().out
    found = as_json(capsys, "gc", copied, "--stopped", "--yes")
    assert set(found["begun"]) == {str(planned), str(other)} and found["stages"]
    assert not planned.exists() and not other.exists() and not list(copied.glob("store/train/*"))
    assert as_json(capsys, "list", copied)["runs"] == []
    assert main(["runs", "gc", str(copied)]) == 0 and "is needed" in capsys.readouterr().out


def test_gc_drops_the_plan_of_a_stopped_run_that_has_made_nothing(copied, capsys):
    plan = copied / "store" / "plans" / "other.json"
    plan.write_text(json.dumps({"command": "", "state": "stopped", "stages": {f"train/{'0' * 20}": "dense"}}))
    assert main(["runs", "gc", str(copied), "--yes"]) == 0 and "is needed" in capsys.readouterr().out and plan.exists()
    assert main(["runs", "gc", str(copied), "--stopped", "--yes"]) == 0
    assert "needs the noted plan of other" in capsys.readouterr().out and not plan.exists()


def test_a_run_that_begins_waits_until_gc_has_ended(copied, capsys, monkeypatch):
    for folder in {path.parent for path in copied.glob("*/record.json")}:
        shutil.rmtree(folder)
    store, began = Store(copied / "store"), threading.Event()
    threads = []

    def begin() -> None:
        with store.present("other"):
            began.set()

    def idle(self, claims) -> None:  # gc has found nobody at work: now a run begins
        if not threads:
            threads.append(threading.Thread(target=begin))
            threads[0].start()
            assert not began.wait(0.5)

    monkeypatch.setattr(Inventory, "_check_idle", idle)
    assert main(["runs", "gc", str(copied), "--yes"]) == 0 and "Deleted." in capsys.readouterr().out
    assert began.wait(10)
    threads[0].join()


def test_a_second_gc_and_a_store_that_cannot_be_written_are_refused_by_name(copied, capsys, monkeypatch):
    for folder in {path.parent for path in copied.glob("*/record.json")}:
        shutil.rmtree(folder)
    claim = Claims(copied / "store" / "unfinished").take("freeing")
    assert main(["runs", "gc", str(copied), "--yes"]) == 2 and "another process deletes" in capsys.readouterr().err
    claim.leave(keep=False)

    def refused(self, name):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Claims, "take", refused)
    assert main(["runs", "gc", str(copied), "--yes"]) == 2
    assert "Read-only file system" in (said := capsys.readouterr().err) and "make it writable" in said
    assert list(copied.glob("store/train/*/stage.json"))


def test_a_run_folder_behind_a_link_opens(copied, tmp_path):
    (folder,) = {path.parent for path in copied.glob("*/record.json")}
    (tmp_path / "to").symlink_to(folder)
    assert Run(tmp_path / "to").weights(0, level=0)
    aside = tmp_path / "disk" / "run"
    aside.parent.mkdir()
    folder.rename(aside)
    folder.symlink_to(aside)
    assert Run(folder).weights(0, level=0)


def test_gc_keeps_saves_of_a_run_with_a_folder_and_deletes_those_that_an_earlier_call_left(copied, capsys):
    (folder,) = {path.parent for path in copied.glob("*/record.json")}
    training = sorted(copied.glob("store/train/*"))[0]
    shutil.rmtree(training)
    planned, other = begun(copied, f"train-{training.name}"), begun(copied, f"train-{'0' * 20}")
    assert as_json(capsys, "gc", copied, "--stopped", "--yes")["begun"] == [str(other)]
    assert planned.exists() and not other.exists() and folder.exists()


def test_gc_keeps_the_plan_of_a_stopped_run_that_has_only_saves(copied, capsys):
    (folder,) = {path.parent for path in copied.glob("*/record.json")}
    training = sorted(copied.glob("store/train/*"))[0]
    plan = copied / "store" / "plans" / "other.json"
    plan.write_text(json.dumps({"command": "", "state": "stopped", "stages": {f"train/{'0' * 20}": "dense"}}))
    save = begun(copied, f"train-{'0' * 20}")
    shutil.rmtree(folder)
    assert str(training) in as_json(capsys, "gc", copied, "--yes")["stages"]
    assert not training.exists() and plan.exists() and save.exists()


@pytest.mark.slow
def test_gc_keeps_what_a_stopped_run_has_made(tmp_path, capsys):
    run = subprocess.Popen(
        [sys.executable, "-m", "sparselt.reproduce", *SMALL],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while len(list(tmp_path.glob("runs/store/train/*/stage.json"))) < 2 and run.poll() is None:
        pass
    run.terminate()
    assert run.wait(60) == 143
    out = tmp_path / "runs"
    (state,) = as_json(capsys, "list", out)["runs"]
    assert state["state"] == "stopped" and 0 < state["made"] < state["stages"] and "digits_resnet8" in state["command"]
    assert as_json(capsys, "gc", out)["stages"] == []
    assert len(as_json(capsys, "gc", out, "--stopped")["stages"]) == state["made"]
    reproduce(*SMALL, cwd=tmp_path, check=True)
    (state,) = as_json(capsys, "list", out)["runs"]
    assert state["state"] == "done"


def test_a_folder_without_a_store_is_refused(tmp_path, capsys):
    for command in ("list", "verify", "gc"):
        assert main(["runs", command, str(tmp_path)]) == 2
        assert "holds no store" in capsys.readouterr().err


@pytest.mark.slow
def test_gc_refuses_beside_a_run_also_between_its_stages_and_list_says_that_it_works(tmp_path, capsys):
    run = subprocess.Popen(
        [sys.executable, "-m", "sparselt.reproduce", *SMALL], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    out = tmp_path / "runs"
    while not list(out.glob("store/unfinished/run-*/work-*")) and run.poll() is None:
        pass
    refused = 0
    while run.poll() is None:
        if not list(out.glob("store/unfinished/run-*/work-*")):
            break
        (state,) = as_json(capsys, "list", out)["runs"] or [{"state": "at work"}]
        assert state["state"] in ("at work", "done")
        refused += main(["runs", "gc", str(out), "--yes", "--stopped"]) == 2
        capsys.readouterr()
    assert run.wait(60) == 0 and refused > 3
    (state,) = as_json(capsys, "list", out)["runs"]
    assert state["state"] == "done" and state["made"] == state["stages"]


def test_a_damaged_plan_of_a_stopped_run_keeps_gc_from_guessing(copied, capsys):
    for folder in {path.parent for path in copied.glob("*/record.json")}:
        shutil.rmtree(folder)
    for plan in copied.glob("store/plans/*.json"):
        plan.write_text("xx")
    assert main(["runs", "gc", str(copied), "--yes"]) == 2
    assert "not known what the run needs" in capsys.readouterr().err
    assert {run["state"] for run in as_json(capsys, "list", copied)["runs"]} == {"damaged"}
    assert list(copied.glob("store/train/*"))


def test_what_is_missing_or_cut_short_is_noticed(copied, capsys):
    shutil.rmtree(next(copied.glob("store/train/*")))
    assert main(["runs", "verify", str(copied)]) == 1 and "1 missing stages" in capsys.readouterr().out
    folder = run_in(copied)
    assert main(["runs", "show", str(folder)]) in (0, 1)
    lines = (folder / "results.csv").read_text().splitlines(keepends=True)
    (folder / "results.csv").write_text("".join(lines[:-5]))
    with pytest.raises(StoreError, match="measurements, and record"):
        _ = sparselt.runs.open(folder).results
