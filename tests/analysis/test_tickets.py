"""Networks and masks made elsewhere: read from where their makers left them, and asked the papers' questions."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sparselt import Mask, magnitude_prune, prunable_parameters
from sparselt.analysis import evaluate_path, evaluate_plane
from sparselt.analysis.connectivity import path_positions
from sparselt.analysis.distances import angle
from sparselt.analysis.overlap import layerwise_jaccard_chance
from sparselt.analysis.tickets import compare_tickets, ticket_plane
from sparselt.cli.main import main
from sparselt.data import Digits, eval_loader, open_dataset, write_dataset
from sparselt.errors import MaskError, SettingError
from sparselt.masks.checkpoints import Checkpoint, read_ticket
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
    assert pair.angle_shared == angle(first.weights, second.weights, first.mask & second.mask)
    prunable = [name for name, _ in prunable_parameters(model)]
    ones, others = (torch.cat([t.weights[name].double().flatten() for name in prunable]) for t in tickets)
    assert pair.l2 == pytest.approx((ones - others).norm().item(), rel=1e-9)
    cosine = (ones @ others / ones.norm() / others.norm()).item()
    assert pair.angle == pytest.approx(math.degrees(math.acos(cosine)), rel=1e-6)
    assert pair.path == evaluate_path(model, first.weights, second.weights, batches, path_positions(3))
    assert found.errors == (pair.path.errors[0], pair.path.errors[-1])
    assert len(found.eigenvalues) == 2 and all(len(each) == 2 for each in found.eigenvalues)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_cannot_be_compared_is_named(levels, betons):
    tickets, model = [read_ticket(folder) for folder in levels], network(5)
    batches = [(torch.zeros(2, 1, 8, 8), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(SettingError, match="tickets 0 and 2 are the same network; a plane needs three that differ"):
        ticket_plane([*tickets, tickets[0]], model, batches, 5)
    broken = Checkpoint({name: tensor.clone() for name, tensor in tickets[1].weights.items()}, tickets[1].mask)
    next(iter(broken.weights.values()))[0] = torch.nan
    with pytest.raises(SettingError, match=r"ticket 1: '.*' holds numbers that are not finite"):
        compare_tickets([tickets[0], broken], model, batches)


def test_a_network_without_weights_has_no_angle(levels):
    ticket = read_ticket(levels[0])
    empty = Mask({name: torch.zeros_like(layer) for name, layer in ticket.mask.items()})
    nothing = Checkpoint({n: torch.zeros_like(t) if n in empty else t for n, t in ticket.weights.items()}, empty)
    (pair,) = compare_tickets([ticket, nothing]).pairs
    assert pair.angle is None and pair.angle_shared is None and pair.l2_shared == 0


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


def test_a_network_without_a_mask_is_said_to_count_as_dense(three, tmp_path, capsys):
    bare = str(tmp_path / "w.safetensors")
    assert main(["analyse", three[2], bare]) == 0
    text = capsys.readouterr().out.replace("\n", "")
    assert f"No mask in {bare}: taken as dense." in text and f"give {bare}+MASK." in text
    assert main(["analyse", *three]) == 0
    assert "No mask in" not in capsys.readouterr().out


@pytest.fixture
def three(levels, tmp_path):
    state, mask = masked(2, 0.6)
    mask.save(tmp_path / "m.safetensors")
    save_file(state, tmp_path / "w.safetensors")
    return [*map(str, levels), f"{tmp_path / 'w.safetensors'}+{tmp_path / 'm.safetensors'}"]


def test_the_plane_through_three_tickets_holds_them_and_their_mean(three, betons):
    tickets, model = [read_ticket(place) for place in three], network(5)
    data = open_dataset(betons)
    batches = eval_loader(data, data.manifest.normalization)
    plane = ticket_plane(tickets, model, batches, 5)
    first, second, third = (ticket.weights for ticket in tickets)
    parameters = [name for name, _ in model.named_parameters()]
    apart = sum(((second[name] - third[name]).double() ** 2).sum() for name in parameters).sqrt().item()
    assert plane.axes.points[2] == (pytest.approx(apart), 0.0) and plane.axes.points[1] == (0.0, 0.0)
    assert plane.corner_errors == compare_tickets(tickets, model, batches, points=3).errors
    # Any point of the grid is its coefficients' point of evaluate_plane.
    row, column = 3, 1
    coefficients = plane.axes.coefficients(np.array([[plane.x[column], plane.y[row]]]))
    expected = evaluate_plane(model, first, second, third, batches, coefficients)
    assert plane.errors.shape == plane.losses.shape == (5, 5)
    assert plane.losses[row, column] == pytest.approx(expected.losses[0], rel=1e-5)
    mean = evaluate_plane(model, first, second, third, batches, [(1 / 3, 1 / 3)])
    assert plane.mean_error == pytest.approx(mean.errors[0], abs=2 / 500)


def test_the_command_draws_the_plane_and_writes_its_numbers(three, betons, tmp_path, capsys):
    options = ["--model", "resnet8", "--data", str(betons), "--points", "3", "--plane-points", "5"]
    assert main(["analyse", *three, *options, "--plane", str(tmp_path / "plane.png")]) == 0
    text = capsys.readouterr().out
    assert "Plane: 0 at (" in text and "The mean of the three errs on" in text
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (
        tmp_path / "plane.svg"
    ).read_text()
    with (tmp_path / "plane.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert main(["analyse", *three, *options, "--plane", str(tmp_path / "again"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["plane"]
    assert [float(cell["error"]) for cell in cells] == [error for row in found["errors"] for error in row]
    assert [float(cell["x"]) for cell in cells[:5]] == found["x"] and len(found["corner_errors"]) == 3
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "plane.png").read_bytes()


def test_networks_that_span_no_plane_are_refused(three):
    tickets, model = [read_ticket(place) for place in three], network(5)
    with pytest.raises(SettingError, match="three networks, and there are 2"):
        ticket_plane(tickets[:2], model, [])
    with pytest.raises(SettingError, match="tickets 1 and 2 are the same network"):
        ticket_plane([tickets[0], tickets[1], tickets[1]], model, [])


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
        (["{0}", "{1}", "--plane", "p", "--model", "resnet8", "--data", "{betons}"], "2 given: give three tickets"),
        (["{0}", "{1}", "{1}", "--plane", "p"], "give three tickets, --model and --data"),
        (["{0}", "{1}", "{1}", "--plane", "no/p", "--model", "resnet8", "--data", "{betons}"], "no is not a folder"),
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
