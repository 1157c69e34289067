"""Networks and masks made elsewhere: read from where their makers left them, and asked the papers' questions."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sparselt import Mask, magnitude_prune
from sparselt.analysis import evaluate_path
from sparselt.analysis.connectivity import path_positions
from sparselt.analysis.distances import angle
from sparselt.analysis.overlap import layerwise_jaccard_chance
from sparselt.analysis.tickets import compare_tickets
from sparselt.cli.main import main
from sparselt.data import Digits, eval_loader, open_dataset, write_dataset
from sparselt.errors import MaskError, SettingError
from sparselt.masks.checkpoints import read_ticket
from sparselt.models import build_model


def network(seed: int):
    return build_model("resnet8", classes=10, channels=1, seed=seed).to(memory_format=torch.contiguous_format)


def masked(seed: int, fraction: float):
    model = network(seed)
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=fraction)
    mask.apply_(model)
    return model.state_dict(), mask


@pytest.fixture(scope="module")
def betons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("betons")
    write_dataset(Digits(), folder, workers=1)
    return folder


@pytest.fixture
def levels(tmp_path):
    """Two folders as open_lth leaves them."""
    folders = []
    for level, fraction in enumerate((0.5, 0.8)):
        state, mask = masked(level, fraction)
        folder = tmp_path / f"level_{level}"
        folder.mkdir()
        torch.save({name: layer.int() for name, layer in mask.items()}, folder / "mask.pth")
        torch.save(network(9).state_dict(), folder / "model_ep0_it0.pth")
        torch.save(state, folder / "model_ep160_it0.pth")
        folders.append(folder)
    return folders


def test_a_ticket_is_a_folder_of_open_lth_two_files_or_one(levels, tmp_path):
    state, mask = masked(1, 0.8)
    mask.save(tmp_path / "m.safetensors")
    save_file(network(1).state_dict(), tmp_path / "w.safetensors")  # dense: the mask applies to it
    both = read_ticket(f"{tmp_path / 'w.safetensors'}+{tmp_path / 'm.safetensors'}")
    for found in (read_ticket(levels[1]), both):
        assert found.mask == mask and all(torch.equal(found.weights[name], state[name]) for name in state)
    assert read_ticket(tmp_path / "m.safetensors").mask == mask and not read_ticket(tmp_path / "m.safetensors").weights
    assert read_ticket(tmp_path / "w.safetensors").mask is None


def test_the_numbers_are_those_of_the_functions(levels, betons):
    tickets, model = [read_ticket(folder) for folder in levels], network(5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = open_dataset(betons)
    batches = eval_loader(data, data.manifest.normalization)
    found = compare_tickets(tickets, model, batches, points=3, training_batches=[next(iter(batches))], eigenvalues=2)
    (pair,) = found.pairs
    first, second = tickets
    assert found.densities == (first.mask.density, second.mask.density)
    assert pair.jaccard == first.mask.jaccard(second.mask)
    assert pair.jaccard_layerwise_chance == layerwise_jaccard_chance(first.mask, second.mask)
    assert pair.angle == angle(first.weights, second.weights, first.mask & second.mask)
    assert pair.path == evaluate_path(model, first.weights, second.weights, batches, path_positions(3))
    assert found.errors == (pair.path.errors[0], pair.path.errors[-1])
    assert len(found.eigenvalues) == 2 and all(len(each) == 2 for each in found.eigenvalues)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_command_prints_tables_and_json(levels, betons, capsys):
    names = [str(folder) for folder in levels]
    options = ["--model", "resnet8", "--data", str(betons), "--points", "3", "--hessian", "64"]
    assert main(["analyse", *names, *options]) == 0
    text = capsys.readouterr().out
    assert "50.00%" in text and "20.00%" in text and "0 – 1" in text and "points" in text
    assert main(["analyse", *names, *options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tickets"] == names and found["pairs"][0]["path"]["barrier"] >= 0


def test_masks_alone_are_compared_with_chance(levels, capsys):
    assert main(["analyse", *(str(folder / "mask.pth") for folder in levels), "--pairs", "all"]) == 0
    text = capsys.readouterr().out
    assert "union" in text and "error" in text and "barrier (paul" not in text.lower()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.pth"], "nowhere.pth does not exist"),
        (["{0}", "--model", "resnet8"], "--model and --data go together"),
        (["{0}", "--hessian", "5"], "give --model and --data, too"),
        (["{0}/mask.pth", "--model", "resnet8", "--data", "{betons}"], "ticket 0 is a mask without weights"),
        (["{0}", "--model", "lenet_300_100", "--data", "{betons}"], "takes images of 28×28 pixels, not 8"),
        (["{0}", "--model", "resnet20", "--data", "{betons}"], "ticket 0 lacks 'blocks.3.conv1.weight'"),
        (["{0}", "--model", "resnet8", "--data", "{betons}", "--hessian", "9999"], "expected 1 to 1,297"),
        (["{0}/..", "{1}"], "has neither mask.pth nor model_ep"),
        (["{0}/model_ep0_it0.pth+{1}/model_ep0_it0.pth"], "holds a mask; give WEIGHTS+MASK"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(levels, betons, capsys, arguments, words):
    given = [each.format(*levels, betons=betons) for each in arguments]
    assert main(["analyse", *given]) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("error: ") and error.count("\n") == 1


def test_masks_of_different_networks_are_refused(levels):
    other = Mask({"0.weight": torch.ones(2, 2, dtype=torch.bool)})
    tickets = [read_ticket(levels[0]), read_ticket(levels[1])._replace(mask=other)]
    with pytest.raises(MaskError):
        compare_tickets(tickets)
    with pytest.raises(SettingError, match="there is no ticket"):
        compare_tickets([])
