"""MaskedSGD under torch.amp.GradScaler, beside torch's fused SGD."""

import copy

import pytest
import torch
from optim_cases import assert_masked_is_zero, assert_same_weights, give_gradients, network, random_mask

from sparselt import MaskedSGD

OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}


def scaled_step(model, optimizer, scaler, step: int, spoiled: str | None = None) -> None:
    give_gradients(model, step)
    scaler.scale(torch.ones(()))  # a scaler makes its tensors when it first scales something
    for name, p in model.named_parameters():
        p.grad *= scaler.get_scale()
        if name == spoiled:
            p.grad.view(-1)[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("live_momentum", [False, True])
@pytest.mark.parametrize("init_scale", [2.0**12, 1000.0])
def test_scaled_gradients_give_the_weights_of_torchs_fused_sgd(init_scale, live_momentum):
    ours, theirs = network(), network()
    first = MaskedSGD(ours.named_parameters(), live_momentum=live_momentum, **OPTIONS)
    second = torch.optim.SGD(theirs.parameters(), fused=True, **OPTIONS)
    scalers = [torch.amp.GradScaler("cpu", init_scale=init_scale) for _ in range(2)]
    for step in range(5):
        spoiled = "5.weight" if step in (1, 3) else None  # torch's fused SGD cannot skip the first step
        scaled_step(ours, first, scalers[0], step, spoiled)
        scaled_step(theirs, second, scalers[1], step, spoiled)
        assert scalers[0].get_scale() == scalers[1].get_scale()
        assert_same_weights(ours, theirs)


@pytest.mark.parametrize("options", [OPTIONS, {**OPTIONS, "dampening": 0.5}], ids=["plain", "dampening"])
@pytest.mark.parametrize("skipped", [0, 2])
def test_a_skipped_step_changes_nothing_at_all(skipped, options):
    model, other = network(), network()
    mask = random_mask(model)
    one, two = (MaskedSGD(m.named_parameters(), mask=mask, **options) for m in (model, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    for step in range(4):
        if step == skipped:
            before = copy.deepcopy((model.state_dict(), one.state_dict()))
            versions = [p._version for p in model.parameters()]
            scaled_step(model, one, scaler, 99, spoiled="0.bias")
            assert str((model.state_dict(), one.state_dict())) == str(before)
            assert [p._version for p in model.parameters()] == versions
        scaled_step(model, one, scaler, step)
        give_gradients(other, step)
        two.step()
    assert_masked_is_zero(model, one)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_unscaled_gradients_are_not_divided_again_and_stay_clipped():
    ours, theirs = network(), network()
    first, second = MaskedSGD(ours.named_parameters(), **OPTIONS), torch.optim.SGD(theirs.parameters(), **OPTIONS)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        scaler.scale(torch.ones(()))
        for p in ours.parameters():
            p.grad *= scaler.get_scale()
        scaler.unscale_(first)
        for model in (ours, theirs):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(first)
        scaler.update()
        second.step()
    assert_same_weights(ours, theirs)


def test_gradients_stay_scaled():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), **OPTIONS)
    give_gradients(model, 0)
    before = [p.grad.clone() for p in model.parameters()]
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(0.0)
    optimizer.step()
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
