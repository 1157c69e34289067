"""bfloat16 copies that an optimizer keeps of its weights: never stale, masked weights 0, gradients read from them."""

import copy
import pickle

import pytest
import torch
from optim_cases import network, random_mask
from torch import nn

from sparselt import MaskedAdam, MaskedSGD
from sparselt.errors import SettingError


def copied(model: nn.Module, **options):
    """An optimizer, and the copies of all weights of two dimensions and more, beside their weights."""
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, **options)
    weights = [p for p in model.parameters() if p.dim() > 1]
    return optimizer, list(zip(weights, optimizer.copy_to_bfloat16(weights), strict=True))


def give_gradients(optimizer, model, pairs, seed: int, without=()) -> None:
    optimizer.zero_grad()
    generator = torch.Generator().manual_seed(seed)
    copies = {id(p): c for p, c in pairs}
    for i, p in enumerate(model.parameters()):
        target = copies.get(id(p), p)
        gradient = torch.randn(p.shape, generator=generator).bfloat16()
        if i not in without:
            target.grad = torch.empty_like(target).copy_(gradient)


def assert_fresh(pairs) -> None:
    assert pairs
    for p, c in pairs:
        assert c.dtype == torch.bfloat16 and c.is_leaf and c.requires_grad
        assert (c.shape, c.stride()) == (p.shape, p.stride()) and torch.equal(c, p.bfloat16())


@pytest.mark.parametrize("live_momentum", [False, True])
def test_steps_with_copies_are_those_with_float32_gradients_to_the_bit(live_momentum):
    ours, theirs = network(), network()
    mask = random_mask(ours)
    optimizer, pairs = copied(ours, mask=mask, live_momentum=live_momentum)
    assert_fresh(pairs)
    plain = MaskedSGD(
        theirs.named_parameters(), lr=0.1, momentum=0.9, weight_decay=0.1, mask=mask, live_momentum=live_momentum
    )
    for step in range(5):
        give_gradients(optimizer, ours, pairs, step, without={step})
        give_gradients(plain, theirs, [], step, without={step})
        optimizer.step()
        plain.step()
        assert_fresh(pairs)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(p, q)
    for name, layer in mask.items():
        own = dict(ours.named_parameters())[name]
        for p, c in pairs:
            assert p is not own or not c[~layer].any()


def test_copies_follow_every_way_of_writing_to_a_weight_that_torch_counts():
    model = network()
    optimizer, pairs = copied(model, mask=random_mask(model))
    other, saved = network(3).state_dict(), copy.deepcopy(optimizer.state_dict())

    def write() -> None:
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)

    for change in (
        write,
        lambda: model.load_state_dict(other),
        lambda: optimizer.load_state_dict(saved),
        lambda: optimizer.set_mask(random_mask(model, 0.2, 8)),
        lambda: optimizer.restart(random_mask(model, 0.6, 5), {}),
        lambda: optimizer.set_mask(None),
        lambda: optimizer.add_param_group({"params": [("more", nn.Parameter(torch.ones(3)))]}),
        optimizer.refresh,
    ):
        change()
        optimizer.refresh_copies()
        assert_fresh(pairs)
        give_gradients(optimizer, model, pairs, 1)
        optimizer.step()
        assert_fresh(pairs)


def test_a_weight_written_between_forward_pass_and_step_has_a_fresh_copy_after_it():
    model = network()
    optimizer, pairs = copied(model)
    give_gradients(optimizer, model, pairs, 0, without={0})
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    optimizer.step()
    assert_fresh(pairs)


def test_another_training_in_the_same_memory_has_its_copies_where_a_captured_step_reads_them():
    model = network()
    optimizer, pairs = copied(model, mask=random_mask(model))
    places = [c.data_ptr() for _, c in pairs]
    with torch.no_grad():
        for p, q in zip(model.parameters(), network(5).parameters(), strict=True):
            p.copy_(q)
    optimizer.restart(random_mask(model, 0.5, 3), {})
    assert_fresh(pairs)
    assert [c.data_ptr() for _, c in pairs] == places


def test_copies_stay_the_same_tensors_when_the_memory_order_changes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    optimizer, pairs = copied(model)
    model.to(memory_format=torch.channels_last)
    optimizer.refresh()
    assert_fresh(pairs)
    give_gradients(optimizer, model, pairs, 0)
    optimizer.step()
    assert_fresh(pairs)


def test_a_refreshed_optimizer_writes_no_copy_again_before_somebody_writes_to_a_weight():
    model = network()
    optimizer, pairs = copied(model)
    with torch.no_grad():
        pairs[0][1].fill_(7)
    optimizer.refresh_copies()
    assert (pairs[0][1] == 7).all()
    optimizer.refresh()
    assert_fresh(pairs)


def test_zero_grad_covers_the_copies():
    model = network()
    optimizer, pairs = copied(model)
    give_gradients(optimizer, model, pairs, 0)
    optimizer.zero_grad(set_to_none=False)
    assert all(c.grad is not None and not c.grad.any() for _, c in pairs)
    optimizer.zero_grad()
    assert all(c.grad is None for _, c in pairs)


def test_copying_ends_and_copies_of_an_optimizer_have_none():
    model = network()
    optimizer, pairs = copied(model)
    for own in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert not own._copies
    give_gradients(optimizer, model, pairs, 0)
    optimizer.step()
    momentum = {name: entry["momentum_buffer"].clone() for name, entry in optimizer.named_state().items()}
    assert optimizer.copy_to_bfloat16([]) == []
    assert momentum and all(
        torch.equal(optimizer.named_state()[name]["momentum_buffer"], old) for name, old in momentum.items()
    )
    before = [p.clone() for p in model.parameters()]
    give_gradients(optimizer, model, [], 1)
    optimizer.step()
    assert not any(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_what_cannot_be_copied_is_named():
    model = network()
    optimizer, pairs = copied(model)
    with pytest.raises(SettingError, match=r"tensor 0 is torch.float32 of shape \(3,\)"):
        optimizer.copy_to_bfloat16([torch.zeros(3)])
    first, again = optimizer.copy_to_bfloat16([pairs[0][0], pairs[0][0]])
    assert first is again
    optimizer, pairs = copied(model)
    narrow = network().bfloat16()
    with pytest.raises(SettingError, match=r"0\.weight is torch\.bfloat16"):
        MaskedAdam(narrow.named_parameters()).copy_to_bfloat16(narrow.parameters())
    give_gradients(optimizer, model, pairs, 0)
    pairs[0][0].grad = torch.zeros_like(pairs[0][0])
    with pytest.raises(SettingError, match=r"0\.weight has a gradient of its own"):
        optimizer.step()


@pytest.mark.parametrize("unscaled", [False, True])
def test_a_gradient_scaler_is_refused_because_it_does_not_see_the_copies(unscaled):
    model = network()
    optimizer, pairs = copied(model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    give_gradients(optimizer, model, pairs, 0)
    if unscaled:
        scaler.unscale_(optimizer)
    with pytest.raises(SettingError, match="GradScaler neither scales nor checks"):
        scaler.step(optimizer)
