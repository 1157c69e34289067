"""Masks in and out: torch.nn.utils.prune, and the files of open_lth, TurboPrune and fasterai."""

import pytest
import torch
from optim_cases import network, random_mask
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

from sparselt import Mask, MaskedSGD
from sparselt.errors import MaskError
from sparselt.masks.checkpoints import read_checkpoint


@pytest.fixture
def pruned():
    """A network, its mask, and its weights under the mask."""
    model = network()
    mask = Mask(random_mask(model))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name, layer in mask.items():
        weights[name].masked_fill_(~layer, 0)
    return model, mask, weights


def assert_read(found, mask, weights):
    assert found.mask == mask
    assert found.weights.keys() == weights.keys()
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in weights.items())


def test_a_mask_goes_into_torchs_prune_and_comes_back(pruned):
    model, mask, weights = pruned
    mask.apply_as_prune(model)
    assert prune.is_pruned(model) and Mask.from_pruned(model) == mask
    assert all(torch.equal(model.get_submodule(n.removesuffix(".weight")).weight, weights[n]) for n in mask)
    for again in (mask.apply_as_prune, lambda model: MaskedSGD(model.named_parameters(), mask=mask)):
        with pytest.raises(
            MaskError, match=r"pruned this weight already.* call torch\.nn\.utils\.prune\.remove\(model\.get"
        ):
            again(model)
    for name in mask:
        prune.remove(model.get_submodule(name.removesuffix(".weight")), "weight")
    MaskedSGD(model.named_parameters(), lr=0.1, mask=mask)
    with pytest.raises(MaskError, match="has pruned nothing of this model"):
        Mask.from_pruned(model)


def test_what_torchs_prune_has_pruned_is_read(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.l1_unstructured(model[0], "weight", amount=4)
    prune.random_unstructured(model[1], "bias", amount=1)
    mask = Mask.from_pruned(model)
    assert mask.layer_densities() == {"0.weight": 8 / 24, "1.bias": 0.5}
    torch.save(model.state_dict(), tmp_path / "pruned.pt")
    weights = {
        "0.weight": model[0].weight,
        "0.bias": model[0].bias,
        "1.weight": model[1].weight,
        "1.bias": model[1].bias,
    }
    assert_read(read_checkpoint(tmp_path / "pruned.pt"), mask, weights)


def test_a_mask_and_checkpoints_of_open_lth_are_read(pruned, tmp_path):
    model, mask, weights = pruned
    torch.save({name: layer.int() for name, layer in mask.items()}, tmp_path / "mask.pth")
    assert_read(read_checkpoint(tmp_path / "mask.pth"), mask, {})
    torch.save(model.state_dict(), tmp_path / "model_ep3_it0.pth")
    assert_read(read_checkpoint(tmp_path / "model_ep3_it0.pth"), None, model.state_dict())

    class PrunedModel(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model
            for name, layer in mask.items():
                self.register_buffer("mask_" + name.replace(".", "___"), layer.float())

    wrapped = PrunedModel()
    for whole in (wrapped, nn.DataParallel(wrapped)):
        saved = {"ep": 3, "it": 0, "model_state_dict": whole.state_dict(), "optimizer_state_dict": {}, "logger": ""}
        torch.save(saved, tmp_path / "checkpoint.pth")
        assert_read(read_checkpoint(tmp_path / "checkpoint.pth"), mask, weights)


@pytest.mark.parametrize("buffer", ["mask", "_mask"])
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_mask_beside_each_weight_is_read(pruned, buffer, ending, tmp_path):
    """TurboPrune calls it mask, fasterai _mask."""
    model, mask, weights = pruned
    for name, layer in mask.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        module.register_buffer(buffer, layer.float())
        if buffer == "_mask":
            module.register_buffer("_init_weights", module.weight.detach().clone())
            module.register_buffer("_init_biases", module.bias.detach().clone())
    path = tmp_path / f"model.{ending}"
    if ending == "pt":
        torch.save(model.state_dict() if buffer == "mask" else {"model": model.state_dict(), "opt": {}}, path)
    else:
        save_file(model.state_dict(), path)
    assert_read(read_checkpoint(path), mask, weights)


def test_masks_of_whole_filters_are_spread_over_their_weights(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(3, 3))
    model[0].register_buffer("_mask", torch.tensor([1.0, 0, 1, 0]).view(4, 1, 1, 1))
    model[1].register_buffer("mask", torch.ones(5))
    torch.save(model.state_dict(), tmp_path / "odd.pt")
    with pytest.raises(MaskError, match=r"the mask of 1\.weight has shape \(5,\), the weight \(3, 3\)"):
        read_checkpoint(tmp_path / "odd.pt")
    del model[1].mask
    torch.save(model.state_dict(), tmp_path / "filters.pt")
    found = read_checkpoint(tmp_path / "filters.pt")
    assert found.mask["0.weight"][[0, 2]].all() and not found.mask["0.weight"][[1, 3]].any()
    assert found.mask.keys() == {"0.weight"} and not found.weights["0.weight"][1].any()


@pytest.mark.parametrize("shape", [(), (1,), (3,), (8,), (3, 3), (4, 3, 3, 3), (8, 1, 1, 1)])
@pytest.mark.parametrize("entry", ["0.mask", "0._mask", "0.weight_mask"])
def test_a_mask_of_another_shape_is_refused_unless_fasterai_prunes_whole_dimensions(entry, shape, tmp_path):
    weight = "0.weight_orig" if entry == "0.weight_mask" else "0.weight"
    torch.save({weight: torch.ones(8, 3, 3, 3), entry: torch.ones(shape)}, tmp_path / "odd.pt")
    if (entry, shape) == ("0._mask", (8, 1, 1, 1)):
        assert read_checkpoint(tmp_path / "odd.pt").mask["0.weight"].shape == (8, 3, 3, 3)
        return
    with pytest.raises(MaskError, match=r"the mask of 0\.weight has shape \(.*\), the weight \(8, 3, 3, 3\); expected"):
        read_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parametrize("entry", ["0.mask", "0._mask", "0.weight_mask"])
def test_a_mask_without_its_weight_is_named(entry, tmp_path):
    torch.save({"1.weight": torch.ones(2, 2), entry: torch.ones(2, 2)}, tmp_path / "odd.pt")
    with pytest.warns(
        UserWarning, match=f"odd.pt: {entry} is not read as a mask, because its weight is not in the file"
    ):
        assert read_checkpoint(tmp_path / "odd.pt").mask is None


def test_a_folder_is_named_with_its_reader(tmp_path):
    with pytest.raises(MaskError, match="is a folder; expected a file: read_ticket reads"):
        read_checkpoint(tmp_path)


def test_files_that_are_no_tensors_by_name_are_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"0.weight": torch.tensor([0, 2])}, tmp_path / "two.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    for name, words in (
        ("whole.pt", "does not load as tensors alone"),
        ("list.pt", "holds no tensors by name"),
        ("two.pt", "the mask of 0.weight has values other than 0 and 1"),
        ("text.pt", "does not load"),
        ("text.safetensors", "does not load"),
        ("none.pt", "none.pt does not exist"),
    ):
        with pytest.raises(MaskError, match=words):
            read_checkpoint(tmp_path / name)
