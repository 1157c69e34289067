import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from sparselt import Mask, magnitude_prune, prunable_parameters
from sparselt.errors import CriterionError, MaskError, SettingError, TrainingError
from sparselt.models import build_model
from sparselt.pruning import empty_layers, prune_by_scores, weights_left
from sparselt.scopes import erk_counts


def by_sorting(weights: dict[str, np.ndarray], mask: dict[str, np.ndarray], fraction: float) -> dict[str, np.ndarray]:
    """Independent: a stable sort of the live magnitudes, the first ⌈fraction · live⌉ go."""
    flat = np.concatenate([weights[name].ravel() for name in mask])
    alive = np.concatenate([mask[name].ravel() for name in mask])
    live = np.flatnonzero(alive)
    order = live[np.argsort(np.abs(flat[live]), kind="stable")]
    alive[order[: math.ceil(round(fraction * len(live), 6))]] = False
    kept = np.split(alive, np.cumsum([mask[name].size for name in mask])[:-1])
    return {name: part.reshape(mask[name].shape) for name, part in zip(mask, kept, strict=True)}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(1, 6)] * 4), min_size=1, max_size=4),
    st.floats(0.01, 0.99),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_pruning_equals_sorting_with_ties_and_masks(shapes, fraction, ties, dtype, channels_last, seed):
    rng = np.random.default_rng(seed)
    drawn = {f"w{i}": torch.from_numpy(rng.normal(size=shape)).to(dtype) for i, shape in enumerate(shapes)}
    order = torch.channels_last if channels_last else torch.contiguous_format
    tensors = {name: (w.round() if ties else w).contiguous(memory_format=order) for name, w in drawn.items()}
    weights = {name: w.float().numpy() for name, w in tensors.items()}
    alive = {name: rng.random(w.shape) < 0.8 for name, w in weights.items()}
    alive["w0"][0, 0] = True
    mask = Mask({name: torch.from_numpy(m) for name, m in alive.items()})
    pruned = magnitude_prune(tensors, mask, fraction)
    expected = by_sorting(weights, alive, fraction)
    assert all(np.array_equal(pruned[name].numpy(), expected[name]) for name in expected)
    for name, layer in magnitude_prune(tensors, mask, fraction, "layerwise").items():
        alone = by_sorting({name: weights[name]}, {name: alive[name]}, fraction)[name]
        assert np.array_equal(layer.numpy(), alone)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.floats(0.01, 0.9), st.booleans(), st.integers(0, 2**32 - 1))
def test_open_lths_rule_keeps_what_is_strictly_greater_than_its_threshold(size, fraction, ties, seed):
    weight = np.random.default_rng(seed).normal(size=size).astype(np.float32)
    weight = np.round(weight) if ties else weight
    alive = np.arange(size) % 3 > 0
    # Its pruning/sparse_global.py: the magnitude at index ⌈fraction · live⌉ of the sorted ones.
    index = math.ceil(round(fraction * alive.sum(), 6))
    threshold = np.sort(np.abs(weight[alive]))[index] if index < alive.sum() else None
    mask = Mask({"w": torch.from_numpy(alive)})
    if threshold is None:
        with pytest.raises(SettingError, match="would leave none"):
            magnitude_prune({"w": torch.from_numpy(weight)}, mask, fraction, rule="open_lth")
        return
    pruned = magnitude_prune({"w": torch.from_numpy(weight)}, mask, fraction, rule="open_lth")
    assert np.array_equal(pruned["w"].numpy(), alive & (np.abs(weight) > threshold))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "layer"}, "scope is 'layer'"),
        ({"rule": "strict"}, "rule is 'strict'"),
        ({"rule": "open_lth", "scope": "layerwise"}, "scope 'global'"),
    ],
)
def test_an_unknown_scope_or_rule_is_refused(options, message):
    with pytest.raises(SettingError, match=message):
        magnitude_prune({"w": torch.ones(2)}, Mask({"w": torch.ones(2, dtype=torch.bool)}), 0.5, **options)


def test_density_after_level_l_is_the_papers_power_of_four_fifths():
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    mask = Mask.ones_like(model)
    for level in range(1, 13):
        smaller = magnitude_prune(model, mask, 0.2)
        assert smaller & mask == smaller
        mask = smaller
        assert mask.density == pytest.approx(0.8**level, abs=1e-3)


def test_a_tenth_of_thirty_is_three_in_spite_of_floating_point():
    mask = Mask({"w": torch.ones(30, dtype=torch.bool)})
    assert magnitude_prune({"w": torch.arange(30.0)}, mask, 0.1).live == 27


def test_pruned_weights_stay_pruned_even_if_they_are_large():
    mask = Mask({"w": torch.tensor([True, False, True])})
    pruned = magnitude_prune({"w": torch.tensor([1.0, 100.0, 2.0])}, mask, 0.5)
    assert pruned["w"].tolist() == [False, False, True]


def test_prunable_are_convolutions_and_linear_layers_never_biases_or_norms():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2), nn.LayerNorm(2))
    assert [name for name, _ in prunable_parameters(model)] == ["0.weight", "2.weight"]


def test_a_shared_weight_is_prunable_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert [name for name, _ in prunable_parameters(model)] == ["0.weight"]


def test_attention_and_the_conv1d_of_transformers_are_fully_connected_layers():
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    names = [name for name, _ in prunable_parameters(block)]
    assert names == ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    apart = nn.MultiheadAttention(8, 2, kdim=4, vdim=6)
    assert [name for name, _ in prunable_parameters(apart)][:3] == ["q_proj_weight", "k_proj_weight", "v_proj_weight"]

    class Conv1D(nn.Module):
        __module__ = "transformers.pytorch_utils"

        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(8))

    model = nn.Sequential(nn.Embedding(3, 4), Conv1D())
    assert [name for name, _ in prunable_parameters(model)] == ["1.weight"]


@pytest.mark.parametrize("how", ["parametrization", "prune"])
def test_layers_whose_weight_is_computed_are_named(how):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    if how == "prune":
        prune.random_unstructured(model[0], "weight", amount=0.5)
    else:
        nn.utils.parametrizations.weight_norm(model[0])
    with pytest.warns(UserWarning, match=r"^0.weight cannot be pruned, because it is computed"):
        assert [name for name, _ in prunable_parameters(model)] == ["1.weight"]


def test_other_layers_with_matrices_are_named_unless_that_is_meant():
    model = nn.Sequential(
        nn.Embedding(3, 4), nn.LSTM(4, 5), nn.Linear(5, 6), nn.LayerNorm((5, 6)), nn.Bilinear(2, 3, 4)
    )
    with pytest.warns(
        UserWarning, match=r"^left dense: 1.weight_ih_l0 \(LSTM\), 1.weight_hh_l0 \(LSTM\), 4.weight \(Bilinear\); only"
    ):
        assert [name for name, _ in prunable_parameters(model)] == ["2.weight"]
    model[1].prunable = model[4].prunable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(prunable_parameters(model))) == 1
        tied = nn.Sequential(nn.Bilinear(4, 1, 3), nn.Linear(4, 3))
        tied[0].weight = nn.Parameter(torch.ones(3, 4))
        tied[1].weight = tied[0].weight  # a weight that is prunable under another layer is seen
        assert [name for name, _ in prunable_parameters(tied)] == ["0.weight"]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, math.nan, "0.2", None])
def test_a_fraction_outside_0_1_is_refused(fraction):
    with pytest.raises(SettingError, match="between 0 and 1"):
        magnitude_prune({"w": torch.ones(2)}, Mask({"w": torch.ones(2, dtype=torch.bool)}), fraction)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_live_weight_is_named_and_a_pruned_one_does_not_matter(value):
    weights = {"a": torch.ones(2), "b": torch.tensor([1.0, value])}
    with pytest.raises(TrainingError, match="'b'"):
        magnitude_prune(weights, Mask({n: torch.ones(2, dtype=torch.bool) for n in "ab"}), 0.5)
    fine = Mask({"a": torch.ones(2, dtype=torch.bool), "b": torch.tensor([True, False])})
    assert magnitude_prune(weights, fine, 0.3).live == 2


def test_a_mask_without_a_live_weight_cannot_be_pruned():
    with pytest.raises(SettingError, match="no weight is left"):
        magnitude_prune({"w": torch.ones(2)}, Mask({"w": torch.zeros(2, dtype=torch.bool)}), 0.5)


def test_a_mask_of_another_model_is_refused():
    with pytest.raises(MaskError, match="'v'"):
        magnitude_prune({"w": torch.ones(2)}, Mask({"v": torch.ones(2, dtype=torch.bool)}), 0.5)


def test_empty_layers_are_named():
    assert empty_layers(Mask({"a": torch.zeros(2, dtype=torch.bool), "b": torch.ones(1, dtype=torch.bool)})) == ["a"]


def test_plain_bool_tensors_are_a_mask_to_prune():
    model = nn.Linear(4, 2)
    layers = {"weight": torch.ones(2, 4, dtype=torch.bool)}
    assert magnitude_prune(model, layers, 0.5) == magnitude_prune(model, Mask(layers), 0.5)
    with pytest.raises(MaskError, match="mask is a list"):
        magnitude_prune(model, list(layers), 0.5)


def test_weights_left_are_counted_as_pruning_leaves_them():
    sizes = [7, 300, 12]
    model = {str(k): torch.randn(size) for k, size in enumerate(sizes)}
    for scope in ("global", "layerwise"):
        mask = Mask({name: torch.ones(len(weight), dtype=torch.bool) for name, weight in model.items()})
        for level in range(1, 6):
            mask = magnitude_prune(model, mask, 0.3, scope)
            assert weights_left(sizes, 0.3, level, scope) == mask.live
    assert weights_left(sizes, 0.3, 100) == 0


@pytest.mark.parametrize("fraction", [1e-12, np.float32(1e-9)])
def test_the_smallest_fraction_still_takes_a_weight(fraction):
    mask = Mask({"a": torch.ones(50, dtype=torch.bool)})
    assert magnitude_prune({"a": torch.randn(50)}, mask, fraction).live == 49


def lowest(scores: list[np.ndarray], alive: list[np.ndarray], count: int) -> list[np.ndarray]:
    """Independent: a stable sort of the live scores, the first `count` go."""
    flat, kept = np.concatenate([s.ravel() for s in scores]), np.concatenate([a.ravel() for a in alive])
    live = np.flatnonzero(kept)
    kept[live[np.argsort(flat[live], kind="stable")[:count]]] = False
    parts = np.split(kept, np.cumsum([a.size for a in alive])[:-1])
    return [part.reshape(a.shape) for part, a in zip(parts, alive, strict=True)]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(1, 5)] * 4), min_size=1, max_size=4),
    st.floats(0.01, 0.99),
    st.booleans(),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_the_lowest_scores_go_in_every_scope_and_no_weight_comes_back(shapes, fraction, ties, dtype, last, seed):
    rng = np.random.default_rng(seed)
    order = torch.channels_last if last else torch.contiguous_format
    drawn = [torch.from_numpy(rng.normal(size=shape)).to(dtype) for shape in shapes]
    scores = {f"w{i}": (s.round() if ties else s).contiguous(memory_format=order) for i, s in enumerate(drawn)}
    alive = [rng.random(shape) < 0.8 for shape in shapes]
    alive[0][0, 0] = True
    mask = Mask({n: torch.from_numpy(a).contiguous(memory_format=order) for n, a in zip(scores, alive, strict=True)})
    numbers, live = [s.double().numpy() for s in scores.values()], [int(a.sum()) for a in alive]
    total = math.ceil(round(fraction * sum(live), 6))
    expected = lowest(numbers, alive, total)
    pruned = prune_by_scores(scores, mask, fraction)
    assert all(np.array_equal(p.numpy(), e) for p, e in zip(pruned.values(), expected, strict=True))
    kept = erk_counts(shapes, live, sum(live) - total)
    for scope, counts in {
        "layerwise": [math.ceil(round(fraction * n, 6)) for n in live],
        "erk": [n - k for n, k in zip(live, kept, strict=True)],
    }.items():
        pruned = prune_by_scores(scores, mask, fraction, scope)
        for layer, score, a, count in zip(pruned.values(), numbers, alive, counts, strict=True):
            assert np.array_equal(layer.numpy(), lowest([score], [a], count)[0])


def test_magnitudes_in_scope_erk_keep_the_largest_weights_of_each_layer():
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    mask = Mask.ones_like(model)
    for level in range(1, 6):
        smaller = magnitude_prune(model, mask, 0.5, "erk")
        assert smaller & mask == smaller and smaller.live == weights_left([mask.size], 0.5, level)
        for name, weight in prunable_parameters(model):
            gone, kept = weight[mask[name] & ~smaller[name]].abs(), weight[smaller[name]].abs()
            assert not len(gone) or not len(kept) or gone.max() <= kept.min()
        mask = smaller


def test_scores_given_without_a_criterion_are_checked_as_well():
    mask = Mask({"w": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(CriterionError, match="scores: the scores of layer 'w' are NaN or infinite"):
        prune_by_scores({"w": torch.tensor([1.0, math.nan])}, mask, 0.5)
    with pytest.raises(SettingError, match="no weight is left"):
        prune_by_scores({"w": torch.ones(2)}, Mask({"w": torch.zeros(2, dtype=torch.bool)}), 0.5)
