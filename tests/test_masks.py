import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from sparselt import Mask
from sparselt.errors import MaskError, SettingError
from sparselt.masks import as_mask

shapes = st.lists(st.lists(st.integers(0, 5), min_size=0, max_size=4), min_size=1, max_size=4)


@st.composite
def pairs(draw):
    layers = []
    for index, shape in enumerate(draw(shapes)):
        size = int(np.prod(shape, dtype=int))
        bits = [
            torch.tensor(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=torch.bool) for _ in "ab"
        ]
        layers.append((f"layer{index}", *(b.reshape(shape) for b in bits)))
    return Mask({n: a for n, a, _ in layers}), Mask({n: b for n, _, b in layers})


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_union_and_intersection_count_as_sets_do(masks):
    a, b = masks
    assert (a | b).live + (a & b).live == a.live + b.live
    assert (a & b).live <= min(a.live, b.live) <= max(a.live, b.live) <= (a | b).live
    assert a & a == a == a | a
    assert a.jaccard(a) == 1.0
    assert 0.0 <= a.jaccard(b) == b.jaccard(a) <= 1.0


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_a_saved_mask_loads_equal_and_writes_equal_bytes(tmp_path_factory, masks):
    folder = tmp_path_factory.mktemp("masks")
    masks[0].save(folder / "a")
    loaded = Mask.load(folder / "a")
    loaded.save(folder / "b")
    assert loaded == masks[0] and list(loaded) == list(masks[0])
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes()
    assert sorted(path.name for path in folder.iterdir()) == ["a", "b"]


def test_a_file_of_the_first_version_which_had_no_checksum_still_loads(tmp_path):
    layer = torch.tensor([[True, False, True], [False, False, True]])
    packed = torch.from_numpy(np.packbits(layer.numpy().reshape(-1)))
    save_file({"fc.weight": packed}, tmp_path / "mask", metadata={"sparselt_mask": '{"fc.weight": [2, 3]}'})
    assert Mask.load(tmp_path / "mask") == Mask({"fc.weight": layer})


@settings(max_examples=40, deadline=None)
@given(pairs(), st.integers(0, 2**40))
def test_random_mask_keeps_the_count_of_every_layer(masks, seed):
    mask = masks[0]
    drawn = Mask.random_like(mask, seed)
    assert {n: int(m.sum()) for n, m in drawn.items()} == {n: int(m.sum()) for n, m in mask.items()}
    assert drawn == Mask.random_like(mask, seed)


def test_random_masks_overlap_as_chance_has_it():
    mask = Mask({"w": torch.arange(40_000).reshape(200, 200) < 8_000})
    overlaps = [(Mask.random_like(mask, 2 * i) & Mask.random_like(mask, 2 * i + 1)).live for i in range(20)]
    # Hypergeometric: mean 1600, standard deviation 32 a pair, 7.2 for the mean of 20; five of these on each side.
    assert abs(np.mean(overlaps) - 1600) < 36


def test_density_is_weights_remaining():
    mask = Mask({"a": torch.tensor([True, False, False]), "b": torch.tensor([[True]])})
    assert (mask.live, mask.size, mask.density) == (2, 4, 0.5)
    assert mask.layer_densities() == {"a": 1 / 3, "b": 1.0}


def test_apply_sets_pruned_weights_to_exactly_zero_and_no_other():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mask = Mask.random_like(Mask({n: torch.rand_like(p) < 0.5 for n, p in before.items() if p.ndim > 1}), 1)
    mask.apply_(model)
    for name, p in model.named_parameters():
        expected = before[name] * mask[name] if name in mask else before[name]
        assert torch.equal(p, expected)


def test_mask_does_not_follow_later_changes_of_its_tensors():
    layer = torch.ones(3, dtype=torch.bool)
    mask = Mask({"w": layer})
    layer[0] = False
    assert mask.live == 3


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({}, "at least one layer"),
        ({"w": torch.ones(2)}, "'w' is torch.float32"),
        ({"w": [True]}, "'w' is list"),
        ({3: torch.ones(2).bool()}, "the name of a mask layer is 3; expected a parameter's"),
    ],
)
def test_what_is_no_mask_is_refused(layers, message):
    with pytest.raises(MaskError, match=message):
        Mask(layers)


@pytest.mark.parametrize(("name", "shape"), [("absent", (2, 4)), ("weight", (4, 2))])
def test_a_mask_of_another_model_is_refused_before_anything_is_written(name, shape):
    model = nn.Linear(4, 2)
    before = model.weight.detach().clone()
    mask = Mask({"weight": torch.zeros(2, 4, dtype=torch.bool), name: torch.zeros(shape, dtype=torch.bool)})
    with pytest.raises(MaskError, match=name):
        mask.apply_(model)
    assert torch.equal(model.weight, before)


def test_masks_over_different_layers_do_not_combine():
    with pytest.raises(MaskError, match="'a'"):
        Mask({"a": torch.ones(1, dtype=torch.bool)}) & Mask({"b": torch.ones(1, dtype=torch.bool)})


@pytest.mark.parametrize("content", [b"", b"not a mask at all", None])
def test_a_file_that_is_no_mask_is_named(tmp_path, content):
    path = tmp_path / "broken.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MaskError, match=r"broken\.safetensors"):
        Mask.load(path)


def test_a_truncated_mask_is_refused(tmp_path):
    path = tmp_path / "mask.safetensors"
    Mask({"w": torch.rand(1000) < 0.5}).save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(MaskError, match="does not read"):
        Mask.load(path)


@pytest.mark.parametrize("name", [".", "absent/mask.safetensors"])
def test_a_path_that_cannot_be_written_is_named(tmp_path, name):
    with pytest.raises(MaskError, match="mask file"):
        Mask({"w": torch.ones(2, dtype=torch.bool)}).save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_current_folder_is_no_mask_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MaskError, match=r"mask file \. is a folder"):
        Mask({"w": torch.ones(2, dtype=torch.bool)}).save(".")


def test_a_file_of_weights_is_said_to_be_no_mask_file(tmp_path):
    save_file({"w": torch.ones(2)}, tmp_path / "weights.safetensors")
    with pytest.raises(
        MaskError, match=r"weights\.safetensors is not a mask file; expected .* read_checkpoint\(path\)"
    ):
        Mask.load(tmp_path / "weights.safetensors")


def test_plain_bool_tensors_serve_as_a_mask_and_a_list_does_not():
    mask = Mask({"w": torch.tensor([True, False])})
    assert as_mask(mask) is mask and as_mask(dict(mask)) == mask and mask.jaccard(dict(mask)) == 1.0
    with pytest.raises(MaskError, match=r"mask is a list; expected a sparselt\.Mask"):
        as_mask([torch.tensor([True])])


def test_a_model_in_place_of_its_weights_is_told_how_to_give_them():
    with pytest.raises(SettingError, match=r"are a Linear; .* give model\.state_dict\(\)"):
        Mask({"weight": torch.ones(2, 4, dtype=torch.bool)}).check_fits(nn.Linear(4, 2))


def test_what_is_no_network_is_named():
    for method in (Mask.ones_like, Mask.from_pruned, Mask.ones_like(nn.Linear(2, 2)).apply_):
        with pytest.raises(SettingError, match=r"model is a str; expected a network, a torch\.nn\.Module"):
            method("x")


def test_a_lazy_layer_without_weights_is_named():
    model = nn.Sequential(nn.LazyLinear(2))
    with pytest.raises(
        SettingError, match=r"'0\.weight' of a lazy layer has no shape yet; call the model on one batch"
    ):
        Mask.ones_like(model)
    model(torch.zeros(1, 3))
    assert Mask.ones_like(model).size == 6


def test_a_seed_that_is_no_whole_number_is_refused():
    mask = Mask.ones_like(nn.Linear(2, 2))
    with pytest.raises(SettingError, match="seed is 'a'; expected a whole number"):
        Mask.random_like(mask, seed="a")


def test_a_pickled_state_dict_is_told_who_reads_it(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "state_dict.pt")
    with pytest.raises(MaskError, match=r"state_dict\.pt does not read as a mask file .* read_checkpoint\(path\)"):
        Mask.load(tmp_path / "state_dict.pt")


def test_a_mask_of_no_weight_has_density_0():
    mask = Mask({"w": torch.ones(0, dtype=torch.bool)})
    assert mask.density == 0.0 and "0 of 0 weights" in repr(mask)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (torch.ones(3).bool(), r"chosen is torch\.bool \(3,\); expected torch\.bool \(2,\)"),
        (torch.ones(2), r"chosen is torch\.float32 \(2,\)"),
        ([True, False], "chosen is list"),
    ],
)
def test_a_choice_that_is_not_one_of_live_weights_is_refused(chosen, message):
    with pytest.raises(MaskError, match=message):
        Mask({"w": torch.tensor([True, False, True])}).keep(chosen)


def test_live_values_name_a_layer_that_is_missing_or_of_another_shape():
    mask = Mask({"a": torch.tensor([True, False, True]), "b": torch.tensor([True])})
    with pytest.raises(MaskError, match="mask layer 'a' is not a parameter"):
        mask.live_values({})
    with pytest.raises(MaskError, match=r"'a' has shape \(3,\), its weight \(2,\)"):
        mask.live_values({"a": torch.ones(2)}, ["a"])
    assert mask.live_values({"b": torch.tensor([5.0])}, ["b"]).tolist() == [5.0]


def test_a_folder_is_named_as_one(tmp_path):
    with pytest.raises(MaskError, match=r"is a folder, not a mask file; .* read_ticket\(folder\)"):
        Mask.load(tmp_path)
