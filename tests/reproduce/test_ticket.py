"""A ticket goes out of a run: its folder loads with plain torch, and its card says what was measured."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import sparselt.runs
from sparselt import Mask
from sparselt.cli.main import main
from sparselt.errors import StoreError
from sparselt.masks.checkpoints import read_ticket
from sparselt.models import build_model


@pytest.fixture(scope="module")
def run(finished):
    (networks,) = (finished[0] / "runs").glob("digits*/networks.csv")
    return sparselt.runs.open(networks.parent)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    return run.ticket(1, 20, 2).export(tmp_path_factory.mktemp("out") / "ticket", onnx=True)


def images() -> torch.Tensor:
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_the_folder_has_the_network_and_its_mask(run, exported):
    assert {path.name for path in exported.iterdir()} >= {"model.safetensors", "model.pt2", "README.md", "ticket.json"}
    weights, mask = load_file(exported / "model.safetensors"), load_file(exported / "mask.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in run.weights(1, 20, 2).items())
    assert Mask(mask) == run.mask(1, 20, 2)
    assert not any(weights[name][~live].any() for name, live in mask.items())


def test_the_folder_is_read_as_a_ticket(run, exported):
    ticket = read_ticket(exported)
    assert ticket.mask == run.mask(1, 20, 2)
    assert all(torch.equal(tensor, ticket.weights[name]) for name, tensor in run.weights(1, 20, 2).items())


def test_torch_alone_runs_the_program_for_any_batch(run, exported):
    program = torch.export.load(exported / "model.pt2").module()
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    model.load_state_dict(load_file(exported / "model.safetensors"))
    for batch in (images(), images()[:1]):
        torch.testing.assert_close(program(batch), model.eval()(batch), rtol=1e-4, atol=1e-5)


def test_the_onnx_file_computes_the_same(run, exported):
    onnx = pytest.importorskip("onnx.reference")
    (outputs,) = onnx.ReferenceEvaluator(str(exported / "model.onnx")).run(None, {"images": images().numpy()})
    expected = run.ticket(1, 20, 2).model()(images()).detach()
    torch.testing.assert_close(torch.from_numpy(outputs), expected, rtol=1e-3, atol=1e-4)


def test_the_card_and_the_facts_say_what_the_run_measured(run, exported):
    facts, text = json.loads((exported / "ticket.json").read_text()), (exported / "README.md").read_text()
    rows = run.results.query("experiment == 'imp' and variant == 'imp' and replicate == 1 and rewind_step == 20")
    error = rows.query("level == 2 and metric == 'test_error'")["value"].iloc[0]
    assert facts["metrics"]["test_error"] == error and f"| test error | {error:.2%} |" in text
    assert facts["density"] == pytest.approx(0.64, abs=1e-3) and "# resnet8, 64.0% of its weights" in text
    assert facts["input"]["mean"] and re.search(r"\d\.\d\d× \(.* ms for 64 images, one thread", text)
    mask = run.mask(1, 20, 2)
    for layer in facts["layers"]:
        live = mask[layer["name"]]
        assert layer["density"] == pytest.approx(float(live.float().mean()))
        if layer["two_of_four"] is not None:
            groups = live.unflatten(1, (-1, 4)).sum(2)
            assert layer["two_of_four"] == pytest.approx(float((groups <= 2).float().mean()))


def test_the_command_writes_a_dense_network_without_timing_it(run, tmp_path, capsys):
    arguments = ["--replicate", "0", "--level", "0", "--no-measure"]
    assert main(["runs", "export", str(run.folder), str(tmp_path / "d"), *arguments]) == 0
    text = (tmp_path / "d" / "README.md").read_text()
    assert capsys.readouterr().out.strip() == str(tmp_path / "d") and text.startswith("# resnet8, dense")
    assert not (tmp_path / "d" / "mask.safetensors").exists() and "zeros" not in text


def test_bad_input_is_named_and_leaves_nothing(run, exported, tmp_path):
    with pytest.raises(StoreError, match="exists already; give the name of a new folder"):
        run.ticket(1, 20, 2).export(exported)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        run.ticket(1, 20, 2).export(tmp_path / "file" / "ticket", measure=False)
    with pytest.raises(StoreError, match="has no network of replicate 9"):
        run.ticket(9, 20, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("damage", ["final.safetensors", "mask.safetensors", "stage.json"])
def test_damaged_files_are_refused(run, tmp_path, damage):
    shutil.copytree(run.folder.parent, tmp_path / "runs")
    copied = sparselt.runs.open(tmp_path / "runs" / run.folder.name)
    row = copied.network(1, 20, 2)
    path = copied.place(row.mask if damage.startswith("mask") else row.weights).parent / damage
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StoreError, match="run the run's command again"):
        copied.ticket(1, 20, 2)


def test_export_without_onnx_needs_no_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    folder: Path = run.ticket(0, 20, 1).export(tmp_path / "t", measure=False)
    assert not (folder / "model.onnx").exists()
