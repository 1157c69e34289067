"""Masks for torch's own optimizers: the hook that keeps masked weights and their state at zero."""

import pytest
import torch
from optim_cases import give_gradients, network, random_mask
from torch import nn

from sparselt.errors import MaskError, SettingError
from sparselt.optim import keep_masked

OPTIMIZERS = [
    lambda params: torch.optim.Adam(params, lr=0.1, weight_decay=0.1),
    lambda params: torch.optim.Adam(params, lr=0.1, amsgrad=True, foreach=True),
    lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.1),
    lambda params: torch.optim.RMSprop(params, lr=0.1, momentum=0.9, centered=True),
    lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
]


@pytest.mark.parametrize("build", OPTIMIZERS, ids=["Adam", "AMSGrad", "AdamW", "RMSprop", "SGD"])
def test_masked_weights_and_their_state_are_zero_after_every_step(build):
    model = network()
    mask = random_mask(model)
    optimizer = build(model.parameters())
    keep_masked(optimizer, model, mask)
    for name, layer in mask.items():
        assert torch.equal(model.get_parameter(name) != 0, layer)
    for step, poison in enumerate((3.0, float("nan"), float("inf"))):
        give_gradients(model, step)
        for name, layer in mask.items():
            model.get_parameter(name).grad[~layer] = poison
        optimizer.step()
        for name, layer in mask.items():
            p = model.get_parameter(name)
            tensors = [t for t in optimizer.state[p].values() if isinstance(t, torch.Tensor) and t.shape == p.shape]
            assert tensors
            for tensor in (p, *tensors):
                assert not tensor[~layer].any() and tensor[layer].any() and tensor.isfinite().all()


@pytest.mark.parametrize("build", OPTIMIZERS, ids=["Adam", "AMSGrad", "AdamW", "RMSprop", "SGD"])
def test_live_weights_train_as_if_masked_gradients_were_zero(build):
    ours, theirs = network(), network()
    mask = random_mask(ours)
    first, second = build(ours.parameters()), build(theirs.parameters())
    keep_masked(first, ours, mask)
    with torch.no_grad():
        for name, layer in mask.items():
            theirs.get_parameter(name).mul_(layer)
    for step in range(3):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step)
            if model is theirs:
                for name, layer in mask.items():
                    model.get_parameter(name).grad.mul_(layer)
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(p, q)


def test_removing_the_handle_frees_the_masked_weights():
    model = network()
    mask = random_mask(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    keep_masked(optimizer, model, mask).remove()
    give_gradients(model, 0)
    optimizer.step()
    assert all(model.get_parameter(name)[~layer].all() for name, layer in mask.items())


def test_a_mask_that_does_not_fit_is_refused_before_anything_is_written():
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.Adam(model[0].parameters(), lr=0.1)
    with pytest.raises(MaskError, match=r"layer '3\.weight', whose parameter the optimizer does not have"):
        keep_masked(optimizer, model, random_mask(model))
    with pytest.raises(MaskError, match=r"the mask of 0\.weight has shape \(3,\)"):
        keep_masked(optimizer, model, {"0.weight": torch.ones(3).bool()})
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_no_mask_and_arguments_in_another_order_are_refused():
    model = nn.Linear(2, 2)
    optimizer, mask = torch.optim.SGD(model.parameters(), lr=0.1), {"weight": torch.ones(2, 2, dtype=torch.bool)}
    with pytest.raises(MaskError, match=r"mask is None; expected a sparselt\.Mask"):
        keep_masked(optimizer, model, None)
    with pytest.raises(SettingError, match="optimizer is a Linear; expected a torch optimizer"):
        keep_masked(model, optimizer, mask)
    with pytest.raises(SettingError, match="model is a dict; expected a network"):
        keep_masked(optimizer, mask, model)


def test_lbfgs_whose_state_has_no_place_for_a_mask_is_refused():
    model = network()
    with pytest.raises(SettingError, match="optimizer is an LBFGS, whose state is vectors of all weights"):
        keep_masked(torch.optim.LBFGS(model.parameters()), model, random_mask(model))
