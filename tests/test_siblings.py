import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt import Mask, magnitude_prune
from sparselt.errors import MaskError, SettingError, TrainingError
from sparselt.models import build_model
from sparselt.siblings import combined_mask

SHAPES = {"a": (5, 3), "b": (2, 2, 3), "c": (7,)}


def drawn(seed: int, siblings: int, ties: bool) -> list[dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    weights = [{n: torch.from_numpy(rng.normal(size=s)).float() for n, s in SHAPES.items()} for _ in range(siblings)]
    return [{n: (w * 2).round() / 2 if ties else w for n, w in sibling.items()} for sibling in weights]


def some_alive(seed: int, dense: bool) -> Mask:
    rng = np.random.default_rng(seed + 1)
    layers = {n: torch.from_numpy(dense | (rng.random(shape) < 0.7)) for n, shape in SHAPES.items()}
    layers["a"][0, 0] = True
    return Mask(layers)


def flat(layers) -> np.ndarray:
    return np.concatenate([layers[name].numpy().ravel() for name in SHAPES])


def by_brute_force(weights, mask: Mask, kept: int, how: str) -> np.ndarray:
    """The combination of the masks of the `kept` largest live weights of each sibling."""
    alive, combined = np.flatnonzero(flat(mask)), []
    for sibling in weights:
        top = np.zeros(flat(mask).size, bool)
        order = np.argsort(np.abs(flat(sibling)[alive]), kind="stable")
        top[alive[order[len(alive) - kept :]]] = True
        combined.append(top)
    return np.logical_or.reduce(combined) if how == "union" else np.logical_and.reduce(combined)


cases = given(
    st.integers(0, 2**31),
    st.integers(2, 6),
    st.floats(0.01, 1),
    st.sampled_from(["union", "intersection"]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@cases
def test_combined_mask_lies_between_those_of_neighbouring_sibling_densities(seed, siblings, share, how, ties, dense):
    weights, mask = drawn(seed, siblings, ties), some_alive(seed, dense)
    target = max(1, round(share * mask.live))
    combined, sibling_density = combined_mask(weights, target / mask.size, how, mask)
    assert combined.live == target
    kept = round(sibling_density * mask.size)
    assert kept == next(n for n in range(mask.live + 1) if by_brute_force(weights, mask, n, how).sum() >= target)
    larger, smaller = (by_brute_force(weights, mask, n, how) for n in (kept, kept - 1))
    found = flat(combined)
    assert (found <= larger).all() and (smaller <= found).all()
    if larger.sum() == target:
        assert (found == larger).all()


@settings(max_examples=60, deadline=None)
@cases
def test_layerwise_each_layer_is_combined_alone_with_the_same_share(seed, siblings, share, how, ties, dense):
    weights, mask = drawn(seed, siblings, ties), some_alive(seed, dense)
    target = max(1, round(share * mask.live))
    combined, sibling_density = combined_mask(weights, target / mask.size, how, mask, scope="layerwise")
    assert combined.live == target
    kept = 0.0
    for name, layer in combined.items():
        live = int(mask[name].sum())
        assert abs(int(layer.sum()) - target * live / mask.live) < 1
        if layer.any():
            alone, density = combined_mask(weights, int(layer.sum()) / layer.numel(), how, Mask({name: mask[name]}))
            assert torch.equal(alone[name], layer)
            kept += density * layer.numel()
    assert sibling_density == pytest.approx(kept / mask.size)


@pytest.mark.parametrize("how", ["union", "intersection"])
@pytest.mark.parametrize("scope", ["global", "layerwise"])
@pytest.mark.parametrize("fraction", [0.2, 0.9])
def test_identical_siblings_give_the_mask_of_one(how, scope, fraction):
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    start = magnitude_prune(model, Mask.ones_like(model), 0.5)
    alone = magnitude_prune(model, start, fraction)
    combined, sibling_density = combined_mask([model.state_dict()] * 4, alone.density, how, start)
    assert combined == alone and sibling_density == alone.density
    layerwise, _ = combined_mask([model.state_dict()] * 4, alone.density, how, start, scope)
    assert layerwise.live == alone.live


def test_sibling_density_is_below_the_unions_and_above_the_intersections():
    models = [build_model("resnet8", classes=10, channels=1, seed=seed) for seed in range(3)]
    siblings, dense = [model.state_dict() for model in models], Mask.ones_like(models[0])
    union, below = combined_mask(siblings, 0.2, "union", dense)
    intersection, above = combined_mask(siblings, 0.2, "intersection", dense)
    assert union.live == intersection.live == round(0.2 * dense.size)
    assert below < 0.2 < above
    combined = Mask({name: torch.zeros_like(layer) for name, layer in dense.items()})
    for sibling in siblings:
        combined = combined | magnitude_prune(sibling, dense, 1 - below)
    assert union & combined == union and combined.live - union.live <= len(siblings)


def test_full_density_keeps_every_live_weight_and_no_other():
    mask = some_alive(3, dense=False)
    for how in ("union", "intersection"):
        assert combined_mask(drawn(3, 3, ties=False), mask.density, how, mask)[0] == mask


def test_a_tie_of_ranks_goes_to_the_weight_that_the_siblings_rank_higher_together():
    mask = Mask({"w": torch.ones(4, dtype=torch.bool)})
    first, second = {"w": torch.tensor([4.0, 1.0, 3.0, 2.0])}, {"w": torch.tensor([1.0, -4.0, 3.0, 2.0])}
    # Ranks 0, 3, 1, 2 and 3, 0, 1, 2: weights 0 and 1 tie for the union also in sum, and the last in order stays.
    assert combined_mask([first, second], 0.25, "union", mask)[0]["w"].tolist() == [False, True, False, False]
    second["w"][0] = 2.5  # now ranked 2, 0, 1, 3
    assert combined_mask([first, second], 0.25, "union", mask)[0]["w"].tolist() == [True, False, False, False]


@pytest.mark.parametrize("density", [0, -0.1, math.nan, math.inf, "0.2", None])
def test_a_density_that_is_no_positive_number_is_refused(density):
    with pytest.raises(SettingError, match="number above 0"):
        combined_mask(drawn(0, 2, False), density, "union", some_alive(0, True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"density": 0.9}, "only 20 are alive.*at most 0.588"),
        ({"density": 1e-3}, "none of 34 weights"),
        ({"weights": drawn(0, 1, False)}, "two or more"),
        ({"how": "mean"}, "'union' or 'intersection'"),
        ({"scope": "layer"}, "'global', 'layerwise' or 'erk'"),
    ],
)
def test_what_siblings_cannot_reach_is_refused(change, message):
    layers = {n: torch.zeros(shape, dtype=torch.bool) for n, shape in SHAPES.items()}
    layers["a"][:] = True
    layers["c"][:5] = True
    arguments = {"weights": drawn(0, 2, False), "density": 0.5, "how": "union", "mask": Mask(layers)}
    with pytest.raises(SettingError, match=message):
        combined_mask(**{**arguments, **change})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_sibling_is_named_and_its_pruned_weights_do_not_matter(value):
    weights, mask = drawn(0, 3, False), some_alive(0, True)
    weights[2]["b"][0, 0, 0] = value
    with pytest.raises(TrainingError, match="'b' of sibling 2"):
        combined_mask(weights, 0.5, "union", mask)
    alive = dict(mask)
    alive["b"] = torch.ones(SHAPES["b"], dtype=torch.bool).index_fill(0, torch.tensor([0]), False)
    assert combined_mask(weights, 0.5, "union", Mask(alive))[0].live == 17


def test_a_sibling_of_another_model_is_refused():
    with pytest.raises(MaskError, match="'c'"):
        combined_mask([*drawn(0, 1, False), {"a": torch.ones(5, 3)}, {}], 0.5, "union", Mask({"c": torch.ones(7) > 0}))


def test_siblings_may_come_once_and_their_mask_as_plain_tensors():
    weights, mask = drawn(0, 3, ties=False), some_alive(0, dense=False)
    expected = combined_mask(weights, 0.3, "union", mask)
    assert combined_mask((w for w in weights), 0.3, "union", dict(mask)) == expected
