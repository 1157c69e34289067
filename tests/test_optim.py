"""MaskedSGD against torch.optim.SGD, and what it does with masks, saved states and moved parameters."""

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optim_cases import assert_masked_is_zero, assert_same_weights, give_gradients, network, random_mask
from torch import nn

from sparselt import MaskedSGD

OPTIONS = [
    {"momentum": m, "dampening": d, "nesterov": n, "weight_decay": w, "maximize": x}
    for m, d, n, w, x in itertools.product((0, 0.9), (0, 0.3), (False, True), (0, 0.1), (False, True))
    if not (n and (m == 0 or d != 0))
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("full_mask", [False, True], ids=["no mask", "full mask"])
def test_equals_torchs_sgd(options, full_mask):
    ours, theirs = network().to(memory_format=torch.channels_last), network()
    mask = random_mask(ours, density=2.0) if full_mask else None
    first = MaskedSGD(ours.named_parameters(), lr=0.05, mask=mask, **options)
    second = torch.optim.SGD(theirs.parameters(), lr=0.05, **options)
    for step in range(4):
        give_gradients(ours, step, missing=0.3)
        give_gradients(theirs, step, missing=0.3)
        first.step()
        second.step()
        assert_same_weights(ours, theirs)


def test_groups_keep_their_own_settings():
    ours, theirs = network(), network()

    def groups(model):
        named = list(model.named_parameters())
        return [
            {"params": named[:3], "lr": 0.1, "momentum": 0.0, "weight_decay": 0.1},
            {"params": named[3:], "momentum": 0.5, "nesterov": True},
        ]

    first, second = MaskedSGD(groups(ours), lr=0.02), torch.optim.SGD(groups(theirs), lr=0.02)
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        first.step()
        second.step()
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4], gamma=0.1),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=8),
    ],
    ids=["steps", "cosine", "one cycle with momentum"],
)
@pytest.mark.parametrize("tensor_lr", [False, True])
def test_follows_torchs_schedulers(schedule, tensor_lr):
    models, results = [network(), network()], []
    for model, kind in zip(models, (MaskedSGD, torch.optim.SGD), strict=True):
        lr = torch.tensor(0.1) if tensor_lr else 0.1
        optimizer = kind(model.named_parameters(), lr=lr, momentum=0.9)
        scheduler = schedule(optimizer)
        for step in range(6):
            give_gradients(model, step)
            optimizer.step()
            scheduler.step()
        results.append(model)
    assert_same_weights(*results)


def test_decoupled_decay_follows_the_schedule_but_not_the_base_learning_rate():
    model = network()
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = MaskedSGD(model.named_parameters(), lr=2.0, weight_decay=0.01, decoupled_weight_decay=True)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    for p, before in zip(model.parameters(), start, strict=True):
        torch.testing.assert_close(p, before * (1 - 0.01) * (1 - 0.25 * 0.01))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from([0.0, 0.03, 0.5, 1.0]),
    st.sampled_from(OPTIONS),
    st.booleans(),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_masked_weight_and_momentum_stay_zero_whatever_gradient_comes(density, options, decoupled, dtype, order):
    model = network().to(dtype).to(memory_format=order)
    mask = random_mask(model, density)
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, decoupled_weight_decay=decoupled, mask=mask, **options)
    assert_masked_is_zero(model, optimizer)
    for step, poison in enumerate((float("nan"), float("inf"), 3.0)):
        give_gradients(model, step)
        for name, p in model.named_parameters():
            if name in mask:
                p.grad[~mask[name]] = poison
        optimizer.step()
        assert_masked_is_zero(model, optimizer)
        assert all(p.isfinite().all() for p in model.parameters())


def test_live_weights_train_as_if_masked_gradients_were_zero():
    ours, theirs = network(), network()
    mask = random_mask(ours)
    first = MaskedSGD(ours.named_parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, mask=mask)
    second = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            if name in mask:
                p.mul_(mask[name])
    for step in range(3):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        for name, p in theirs.named_parameters():
            if name in mask:
                p.grad.mul_(mask[name])
        first.step()
        second.step()
    assert_same_weights(ours, theirs)


def test_a_new_mask_zeroes_what_it_masks_and_frees_what_it_does_not():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9)
    assert optimizer.mask is None
    for step, mask in enumerate((None, random_mask(model, 0.5, 1), random_mask(model, 0.5, 2), None)):
        optimizer.set_mask(mask)
        assert optimizer.mask is mask
        if mask is not None:
            assert_masked_is_zero(model, optimizer)
        give_gradients(model, step)
        optimizer.step()
        for name, p in model.named_parameters():
            if mask is not None and name in mask:
                assert ((p != 0) == mask[name]).all()
    assert all((p != 0).all() for p in model.parameters() if p.dim() > 1)


@pytest.mark.parametrize("direction", ["to SGD", "from SGD", "to MaskedSGD"])
def test_training_goes_on_from_a_state_dict(direction):
    ours, theirs = network().to(memory_format=torch.channels_last), network()
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    first, second = (
        MaskedSGD(ours.named_parameters(), **options),
        torch.optim.SGD(theirs.named_parameters(), **options),
    )
    for step in range(2):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step)
            optimizer.step()
    model, saved = (theirs, second) if direction == "from SGD" else (ours, first)
    new = network(seed=5)
    new.load_state_dict(model.state_dict())
    kind = torch.optim.SGD if direction == "to SGD" else MaskedSGD
    resumed = kind(new.named_parameters(), lr=7.0)
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    for step in range(2, 4):
        for trained, optimizer in ((model, saved), (new, resumed)):
            give_gradients(trained, step)
            optimizer.step()
    assert_same_weights(new, model)


def test_resuming_under_a_mask_gives_the_same_bits_as_never_stopping():
    model, other = network(), network()
    mask = random_mask(model)
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    for step in range(4):
        give_gradients(model, step)
        if step == 2:
            other.load_state_dict(model.state_dict())
            resumed = MaskedSGD(other.named_parameters(), lr=1.0, mask=mask)
            resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
        if step >= 2:
            give_gradients(other, step)
            resumed.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_momentum_loaded_from_a_dense_run_is_masked():
    model = network()
    dense = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    give_gradients(model, 0)
    dense.step()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=random_mask(model))
    optimizer.load_state_dict(dense.state_dict())
    assert_masked_is_zero(model, optimizer)
    assert any(buffer["momentum_buffer"].any() for buffer in optimizer.state.values())


def test_bfloat16_momentum_survives_a_round_trip_in_float32():
    model = network().bfloat16()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9)
    for step in range(2):
        give_gradients(model, step)
        optimizer.step()
    other = network().bfloat16()
    resumed = MaskedSGD(other.named_parameters(), lr=0.1, momentum=0.9)
    resumed.load_state_dict(optimizer.state_dict())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        buffer = resumed.state[q]["momentum_buffer"]
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, optimizer.state[p]["momentum_buffer"])


def test_dropping_the_state_starts_momentum_anew():
    ours, theirs = network(), network()
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    first, second = MaskedSGD(ours.named_parameters(), **options), torch.optim.SGD(theirs.parameters(), **options)
    for step in range(4):
        for model, optimizer in ((ours, first), (theirs, second)):
            if step == 2:
                optimizer.state.clear()
            give_gradients(model, step)
            optimizer.step()
    assert_same_weights(ours, theirs)


def test_weights_loaded_into_the_model_are_masked_in_the_next_step():
    model = network()
    dense = copy.deepcopy(model.state_dict())
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=random_mask(model))
    model.load_state_dict(dense)
    give_gradients(model, 0)
    optimizer.step()
    assert_masked_is_zero(model, optimizer)


def replace_data(model: nn.Module) -> None:
    for p in model.parameters():
        p.data = p.data.clone()


def transpose_in_place(model: nn.Module) -> None:
    """The same values in another physical order, at another address."""
    for p in model.parameters():
        if p.dim() == 2:
            p.data = p.data.t().contiguous().t()


@pytest.mark.parametrize(
    "move",
    [lambda model: model.to(memory_format=torch.channels_last), replace_data, transpose_in_place],
    ids=["channels last", "new storage", "transposed"],
)
def test_parameters_moved_after_construction_are_followed(move):
    moved, still = network(), network()
    models = []
    for model in (moved, still):
        optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=random_mask(model))
        for step in range(4):
            if step == 2 and model is moved:
                move(model)
            give_gradients(model, step)
            optimizer.step()
        assert_masked_is_zero(model, optimizer)
        models.append(model)
    assert_same_weights(*models)


def test_a_change_of_dtype_takes_the_momentum_along():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=random_mask(model))
    give_gradients(model, 0)
    optimizer.step()
    before = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()}
    model.double()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(
            optimizer.state[p]["momentum_buffer"], 0.9 * before[name].double(), rtol=1e-6, atol=0
        )
    assert_masked_is_zero(model, optimizer)


def test_a_gradient_in_another_memory_order_is_taken_for_what_it_is():
    ours, theirs = network().to(memory_format=torch.channels_last), network()
    first = MaskedSGD(ours.named_parameters(), lr=0.1)
    second = torch.optim.SGD(theirs.parameters(), lr=0.1)
    give_gradients(ours, 0)
    give_gradients(theirs, 0)
    for p in ours.parameters():
        p.grad = p.grad.contiguous()
    first.step()
    second.step()
    assert_same_weights(ours, theirs)


def test_a_copy_of_the_optimizer_keeps_its_mask():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=random_mask(model))
    give_gradients(model, 0)
    optimizer.step()
    twin_model, twin = copy.deepcopy((model, optimizer))
    give_gradients(model, 1)
    give_gradients(twin_model, 1)
    optimizer.step()
    twin.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), twin_model.parameters(), strict=True))
    assert_masked_is_zero(twin_model, twin)


def test_closure_is_evaluated_with_gradients_and_its_loss_returned():
    model = network()
    optimizer = MaskedSGD(model.named_parameters(), lr=0.0)

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 3, 8, 8)).square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > 0


def test_a_step_without_any_gradient_changes_nothing():
    model = network()
    before = copy.deepcopy(model.state_dict())
    MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9).step()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_hooks_and_the_profiler_see_each_step():
    model, seen = network(), []
    optimizer = MaskedSGD(model.named_parameters(), lr=0.1)
    handles = [
        optimizer.register_step_pre_hook(lambda *_: seen.append("before")),
        optimizer.register_step_post_hook(lambda *_: seen.append("after")),
    ]
    give_gradients(model, 0)
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert seen == ["before", "after"]
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
    assert "Optimizer.step#MaskedSGD.step" in {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("live_momentum", [False, True])
def test_special_gradients_of_live_weights_do_what_they_do_in_torch(options, live_momentum):
    ours, theirs = network(), network()
    mask = random_mask(ours)
    first = MaskedSGD(ours.named_parameters(), lr=0.1, mask=mask, live_momentum=live_momentum, **options)
    second = torch.optim.SGD(theirs.parameters(), lr=0.1, **options)
    for step in range(3):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step)
            for i, p in enumerate(model.parameters()):
                for place, special in enumerate((float("nan"), float("inf"), float("-inf"), 3e38)):
                    p.grad.view(-1)[(7 * i + 5 * place) % p.numel()] = special
            optimizer.step()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        live = mask.get(name, torch.ones_like(p, dtype=torch.bool))
        assert not p[~live].any()
        torch.testing.assert_close(p[live], q[live], rtol=2e-6, atol=2e-6, equal_nan=True)


def test_a_shallow_copy_shares_state_as_torchs_does():
    weights = []
    for kind in (MaskedSGD, torch.optim.SGD):
        p = torch.nn.Parameter(torch.zeros(2))
        optimizer = kind([p], lr=0.1, momentum=0.9)
        p.grad = torch.ones(2)
        optimizer.step()
        copied = copy.copy(optimizer)
        assert copied.state is optimizer.state
        copied.step()
        optimizer.step()
        weights.append(p.detach())
    torch.testing.assert_close(*weights)


def test_parameters_of_no_element_are_passed_over_in_any_memory_order():
    w = torch.nn.Parameter(torch.ones(33))
    empty = torch.nn.Parameter(torch.randn(1, 2, 1, 0).contiguous(memory_format=torch.channels_last))
    optimizer = MaskedSGD([("w", w), ("empty", empty)], lr=0.1, momentum=0.9)
    w.grad, empty.grad = torch.ones(33), torch.randn(1, 2, 1, 0)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((33,), 0.9))


def test_a_group_without_momentum_may_stand_beside_nesterov():
    results = []
    for kind in (MaskedSGD, torch.optim.SGD):
        parameters = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
        groups = [{"params": parameters[:1], "momentum": 0}, {"params": parameters[1:]}]
        optimizer = kind(groups, lr=0.1, momentum=0.9, nesterov=True)
        for _ in range(3):
            for p in parameters:
                p.grad = p.detach() * 2
            optimizer.step()
        results.append(torch.cat([p.detach() for p in parameters]))
    torch.testing.assert_close(*results)
