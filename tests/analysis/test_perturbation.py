import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt import Mask
from sparselt.analysis import perturbed, projection_distance
from sparselt.errors import MaskError, SettingError

quick = settings(max_examples=40, deadline=None, derandomize=True)

SHAPES = {"a.weight": (8, 3, 3, 3), "b.weight": (10, 72)}


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}
    return tensors | {"b.bias": torch.ones(10), "count": torch.tensor(3)}


def mask(live: float) -> Mask:
    generator = torch.Generator().manual_seed(1)
    return Mask({name: torch.rand(shape, generator=generator) < live for name, shape in SHAPES.items()})


def move(before, after) -> torch.Tensor:
    return torch.cat([(after[name].double() - before[name].double()).flatten() for name in SHAPES])


@quick
@given(st.floats(1e-2, 1e3), st.sampled_from([0.05, 0.5, 1.1]), st.integers(0, 3))
def test_the_move_has_the_distance_asked_for_and_only_live_weights_move(distance, live, seed):
    before, chosen = state(), mask(live)
    after = perturbed(before, chosen, distance, seed)
    assert float(move(before, after).norm()) == pytest.approx(distance, rel=1e-5)
    for name in SHAPES:
        pruned = ~chosen[name]
        assert torch.equal(after[name][pruned], before[name][pruned])
        assert torch.equal(before[name], state()[name])
    assert torch.equal(after["b.bias"], before["b.bias"]) and after["count"] == 3


def test_masked_weights_of_a_pruned_network_stay_zero():
    chosen = mask(0.5)
    pruned = {name: tensor * chosen[name] if name in chosen else tensor for name, tensor in state().items()}
    after = perturbed(pruned, chosen, 5.0, seed=0)
    assert all(torch.equal(after[name] != 0, chosen[name]) for name in chosen)


def test_the_direction_follows_the_seed_and_the_layer_only():
    before = state()
    once, again, other = (move(before, perturbed(before, mask(1.1), 100.0, seed)) for seed in (0, 0, 1))
    assert torch.equal(once, again)
    # Two random directions of 936 dimensions are orthogonal up to about 1 / sqrt(936).
    assert abs(float(once @ other)) / 1e4 < 0.15
    assert not torch.allclose(once[:216], once[216:432])
    alone = Mask({"b.weight": mask(1.1)["b.weight"]})
    of_one_layer = move(before, perturbed(before, alone, 100.0, 0))[216:]
    ratio = of_one_layer / once[216:]
    torch.testing.assert_close(ratio, ratio[:1].expand(720), rtol=1e-3, atol=0)


def test_the_direction_prefers_no_layer_and_no_sign():
    shift = move(state(), perturbed(state(), mask(1.1), math.sqrt(936), seed=2))
    assert abs(float(shift.mean())) < 0.12
    assert float(shift[:216].square().mean()) == pytest.approx(float(shift[216:].square().mean()), rel=0.3)


def test_no_distance_is_no_move():
    after = perturbed(state(), mask(0.5), 0.0, seed=0)
    assert all(torch.equal(after[name], tensor) for name, tensor in state().items())


@quick
@given(st.sampled_from([0.0, 0.3, 0.8, 1.1]))
def test_the_distance_of_a_projection_is_the_norm_of_what_it_removes(live):
    before, chosen = state(), mask(live)
    removed = {name: tensor * chosen[name] if name in chosen else tensor for name, tensor in before.items()}
    assert projection_distance(before, chosen) == pytest.approx(float(move(before, removed).norm()), rel=1e-9)


def test_what_cannot_be_perturbed_is_refused():
    for distance in (-1.0, math.nan, math.inf):
        with pytest.raises(SettingError, match="perturbation distance"):
            perturbed(state(), mask(0.5), distance, seed=0)
    with pytest.raises(SettingError, match=r"distance of 1e\+300 .* 'a\.weight'"):
        perturbed(state(), mask(0.5), 1e300, seed=0)
    with pytest.raises(SettingError, match="no weight is alive"):
        perturbed(state(), mask(0.0), 1.0, seed=0)
    for function in (lambda s: perturbed(s, mask(0.5), 1.0, 0), lambda s: projection_distance(s, mask(0.5))):
        with pytest.raises(MaskError, match=r"'b\.weight'"):
            function({name: tensor for name, tensor in state().items() if name != "b.weight"})
