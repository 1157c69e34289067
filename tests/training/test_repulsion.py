import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from sparselt import Mask, MaskedSGD
from sparselt.analysis.distances import angle
from sparselt.data.batch import Batch
from sparselt.errors import MaskError, SettingError, TrainingError
from sparselt.training import loop
from sparselt.training.recipe import Recipe
from sparselt.training.repulsion import Repulsion
from sparselt.training.schedule import Schedule

RECIPE = Recipe("none", 32, 60, Schedule("step", 0.1), weight_decay=0.0)


class Loader:
    """Two separable classes, in the same order whenever it is read."""

    steps_per_epoch = 20

    def epoch(self, epoch: int, start_step: int = 0):
        def batches():
            for step in range(start_step, self.steps_per_epoch):
                generator = torch.Generator().manual_seed(1000 * epoch + step)
                labels = torch.randint(2, (32,), generator=generator)
                images = torch.randn(32, 6, generator=generator) + (2 * labels - 1).view(-1, 1)
                yield Batch(images, labels, torch.arange(32))

        return batches()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 2))


def weights(seed: int) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network(seed).named_parameters()}


def half_alive(seed: int = 0) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    dense = Mask.ones_like(network())
    return Mask({name: torch.rand(layer.shape, generator=generator) < 0.6 for name, layer in dense.items()})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100), st.integers(1, 5), st.sampled_from([2.0, -1.0, 0.3]))
def test_penalty_is_the_strength_times_the_mean_squared_cosine(seed, count, strength):
    mask, solutions = half_alive(seed), [weights(seed + 1 + r) for r in range(count)]
    model = network(seed)  # also its weights outside the mask are not zero
    cosines = [math.cos(math.radians(angle(weights(seed), solution, mask))) for solution in solutions]
    expected = strength * sum(c**2 for c in cosines) / count
    assert Repulsion(solutions, mask, strength)(model).item() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_gradient_is_right_and_zero_outside_the_mask():
    mask, model = half_alive(), network().double()
    repulsion = Repulsion([weights(r) for r in (1, 2, 3)], mask, 2.0)
    # gradcheck moves the entries of its inputs, here the parameters themselves.
    assert torch.autograd.gradcheck(lambda *_: repulsion(model), [model.get_parameter(name) for name in mask])
    repulsion(model).backward()
    for name, p in model.named_parameters():
        if name in mask:
            assert p.grad[mask[name]].any() and not p.grad[~mask[name]].any()
        else:
            assert p.grad is None


def test_orthogonal_solutions_have_no_penalty_and_the_same_one_has_all_of_it():
    model = nn.Linear(2, 2, bias=False)
    mask = Mask.ones_like(model)
    model.weight.data = torch.tensor([[1.0, 2.0], [0.0, -1.0]])
    across = [{"weight": torch.tensor([[2.0, -1.0], [5.0, 0.0]])}, {"weight": torch.tensor([[0.0, 1.0], [0.0, 2.0]])}]
    assert Repulsion(across, mask, 2.0)(model).item() == 0
    for sign in (1, -3):
        same = {"weight": sign * model.weight.detach()}
        assert Repulsion([same], mask, 2.0)(model).item() == pytest.approx(2)
        assert Repulsion([same, across[0]], mask, 2.0)(model).item() == pytest.approx(1)


def test_what_solutions_have_outside_the_mask_does_not_count():
    mask, model = half_alive(), network()
    solution = weights(1)
    changed = {n: torch.where(mask[n], w, 99.0) if n in mask else w + 1 for n, w in solution.items()}
    assert torch.equal(Repulsion([solution], mask, 2.0)(model), Repulsion([changed], mask, 2.0)(model))


def trained(mask: Mask, **options):
    model = network()
    mask.apply_(model)
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    return model, loop.train(model, optimizer, Loader(), options.pop("recipe", RECIPE), **options)


def test_training_turns_away_from_solutions_or_towards_them_by_the_sign_of_the_strength():
    mask = half_alive()
    plain, measured = trained(mask)
    solution = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    start = {name: w * mask[name] for name, w in weights(0).items() if name in mask}

    def turned(strength):
        model, found = trained(mask, penalty=Repulsion([solution, start], mask, strength))
        assert found.train_loss < 0.3 and found != measured
        return [abs(math.cos(math.radians(angle(model.state_dict(), other, mask)))) for other in (solution, start)]

    repelled, attracted = turned(2.0), turned(-1.0)
    without = abs(math.cos(math.radians(angle(solution, start, mask))))
    assert all(away < 0.2 < near for away, near in zip(repelled, attracted, strict=True))
    assert attracted[1] > without


def test_a_penalty_is_part_of_every_step_and_of_no_reported_loss():
    mask = half_alive()
    repulsion = Repulsion([weights(1), weights(2)], mask, 2.0)
    model, measured = trained(mask, penalty=repulsion)
    by_hand = network()
    mask.apply_(by_hand)
    optimizer = MaskedSGD(by_hand.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    losses = []
    for step in range(60):
        batch = next(iter(Loader().epoch(step // 20, step % 20)))
        optimizer.zero_grad()
        loss = F.cross_entropy(by_hand(batch.images), batch.labels)
        (loss + repulsion(by_hand)).backward()
        optimizer.step()
        losses.append(loss.detach())
    for p, q in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
    assert measured.train_loss == pytest.approx(float(torch.stack(losses[40:]).mean()), rel=1e-4)


def test_a_penalty_counts_once_a_step_whatever_the_micro_batches():
    calls = []

    def penalty(model):
        calls.append(1)
        return sum(p.square().sum() for p in model.parameters())

    for parts in (1, 4):
        trained(half_alive(), recipe=dataclasses.replace(RECIPE, micro_batches=parts), penalty=penalty)
    assert len(calls) == 2 * RECIPE.steps


@pytest.mark.parametrize("strength", [0, math.nan, math.inf, "2", None])
def test_a_strength_that_neither_repels_nor_attracts_is_refused(strength):
    with pytest.raises(SettingError, match="to repel"):
        Repulsion([weights(1)], half_alive(), strength)


def test_solutions_and_models_that_do_not_fit_are_refused():
    mask = half_alive()
    with pytest.raises(SettingError, match="no previous solution"):
        Repulsion([], mask, 2.0)
    with pytest.raises(MaskError, match=r"'0.weight'"):
        Repulsion([weights(1), {}], mask, 2.0)
    with pytest.raises(MaskError, match=r"'0.weight'"):
        Repulsion([weights(1)], mask, 2.0)(nn.Sequential(nn.Linear(2, 2)))
    zero = {name: torch.zeros_like(w) for name, w in weights(1).items()}
    with pytest.raises(SettingError, match="solution 1 is zero"):
        Repulsion([weights(1), zero], mask, 2.0)
    with pytest.raises(TrainingError, match=r"'3.weight' of solution 0"):
        Repulsion([{**weights(1), "3.weight": torch.full((2, 8), math.nan)}], mask, 2.0)


def test_solutions_may_come_once_and_the_mask_as_plain_tensors():
    states = [network(seed).state_dict() for seed in (1, 2)]
    mask = Mask.ones_like(network())
    expected = Repulsion(states, mask, 2.0)(network())
    assert torch.equal(Repulsion((state for state in states), dict(mask), 2.0)(network()), expected)
