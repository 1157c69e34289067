"""MaskedSGD that stores the momentum of live weights only, beside the one that stores it for all."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_cases import assert_masked_is_zero, give_gradients, network, random_mask

from sparselt import MaskedSGD

OPTIONS = {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.01}


def pair(dtype=torch.float32, order=torch.contiguous_format, density=0.4, **options):
    models = [network().to(dtype).to(memory_format=order) for _ in range(2)]
    mask = random_mask(models[0], density)
    optimizers = [
        MaskedSGD(model.named_parameters(), mask=mask, live_momentum=live, **{**OPTIONS, **options})
        for model, live in zip(models, (False, True), strict=True)
    ]
    return models, optimizers


def step(models, optimizers, seed: int, missing: float = 0.0) -> None:
    for model, optimizer in zip(models, optimizers, strict=True):
        give_gradients(model, seed, missing)
        optimizer.step()


def assert_same_bits(models, optimizers) -> None:
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)
    dense, live = (optimizer.state_dict()["state"] for optimizer in optimizers)
    assert dense.keys() == live.keys()
    for key, state in dense.items():
        assert state["momentum_buffer"].shape == live[key]["momentum_buffer"].shape
        assert state["momentum_buffer"].stride() == live[key]["momentum_buffer"].stride()
        assert torch.equal(state["momentum_buffer"], live[key]["momentum_buffer"])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
    st.booleans(),
)
def test_gives_the_same_bits_as_dense_momentum(density, dtype, order, nesterov):
    models, optimizers = pair(dtype, order, density, nesterov=nesterov, dampening=0.0 if nesterov else 0.2)
    for seed in range(4):
        step(models, optimizers, seed, missing=0.3)
        assert_same_bits(models, optimizers)


def test_a_new_mask_carries_the_momentum_of_weights_that_stay_alive():
    models, optimizers = pair()
    for seed, mask in enumerate((None, random_mask(models[0], 0.5, 2), random_mask(models[0], 0.3, 3), None)):
        for optimizer in optimizers:
            optimizer.set_mask(mask)
        assert_same_bits(models, optimizers)
        step(models, optimizers, seed)
        assert_same_bits(models, optimizers)


def test_momentum_shrinks_with_density():
    model = torch.nn.Linear(512, 1024)
    mask = {"weight": torch.rand(1024, 512) < 0.05}
    optimizer = MaskedSGD(model.named_parameters(), mask=mask, live_momentum=True, **OPTIONS)
    model.weight.grad, model.bias.grad = torch.ones_like(model.weight), torch.ones_like(model.bias)
    optimizer.step()
    stored = sum(state["momentum_buffer"].numel() for state in optimizer.state.values())
    live = int(mask["weight"].sum()) + 1024
    assert live <= stored <= live + 7 * 513 + 16  # each block of 1,024 weights starts at a multiple of 8
    sizes = {state["momentum_buffer"].untyped_storage().nbytes() for state in optimizer.state.values()}
    assert sizes == {4 * stored}  # views of one arena


@pytest.mark.parametrize("live", [(True, False), (False, True), (True, True)], ids=str)
def test_training_goes_on_from_the_state_of_the_other_kind(live):
    model, other = network(), network(seed=3)
    mask = random_mask(model)
    first = MaskedSGD(model.named_parameters(), mask=mask, live_momentum=live[0], **OPTIONS)
    second = MaskedSGD(other.named_parameters(), lr=1.0, mask=mask, live_momentum=live[1])
    for seed in range(2):
        step([model], [first], seed)
    other.load_state_dict(model.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for seed in range(2, 4):
        step([model, other], [first, second], seed)
    assert_same_bits([model, other], [first, second])


def test_the_state_goes_to_torchs_sgd_and_back():
    model, other = network(), network()
    ours = MaskedSGD(model.named_parameters(), live_momentum=True, **OPTIONS)
    theirs = torch.optim.SGD(other.named_parameters(), lr=1.0)
    step([model], [ours], 0)
    other.load_state_dict(model.state_dict())
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    step([model, other], [ours, theirs], 1)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    step([model, other], [ours, theirs], 2)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-6, atol=2e-6)


def change_memory_order(model, optimizer):
    model.to(memory_format=torch.channels_last)
    return model, optimizer


@pytest.mark.parametrize(
    "move", [change_memory_order, lambda *both: copy.deepcopy(both)], ids=["channels last", "deepcopy"]
)
def test_live_momentum_follows_parameters_that_are_moved_or_copied(move):
    models, optimizers = pair()
    step(models, optimizers, 0)
    models[1], optimizers[1] = move(models[1], optimizers[1])
    step(models, optimizers, 1)
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(p, q)
    dense, live = (optimizer.state_dict()["state"] for optimizer in optimizers)
    assert all(torch.equal(dense[k]["momentum_buffer"], live[k]["momentum_buffer"]) for k in dense)
    expanded = MaskedSGD(models[1].named_parameters(), mask=optimizers[1].mask, **OPTIONS)
    expanded.load_state_dict(optimizers[1].state_dict())
    assert_masked_is_zero(models[1], expanded)
