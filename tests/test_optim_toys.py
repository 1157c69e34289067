"""Optimizers with a rule of ten lines, on what masked optimizers share: beside torch's Adam, and a plain Lion."""

import copy
import itertools
import os
import subprocess
import sys

import pytest
import torch
from optim_cases import assert_same_weights, give_gradients, network, random_mask
from optim_toys import Adam, Lion, SignSGD
from torch import Tensor, nn

from sparselt.errors import SettingError

KINDS = [Adam, Lion]


class PlainLion:
    """Lion with a mask, in plain torch."""

    def __init__(self, model: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float, mask):
        self.lr, self.betas, self.decay = lr, betas, weight_decay
        self.layers = [(p, torch.zeros_like(p), mask.get(name, torch.ones(()))) for name, p in model.named_parameters()]

    @torch.no_grad()
    def step(self) -> None:
        for p, average, live in self.layers:
            if p.grad is not None:
                update = (self.betas[0] * average + (1 - self.betas[0]) * p.grad).sign()
                p.copy_(live * (p - self.lr * (update + self.decay * p)))
                average.copy_(live * (self.betas[1] * average + (1 - self.betas[1]) * p.grad))


def test_a_rule_without_state_keeps_none():
    ours, theirs = network(), network()
    mask = random_mask(ours)
    optimizer = SignSGD(ours.named_parameters(), lr=0.1, mask=mask)
    for step in range(3):
        give_gradients(ours, step, missing=0.2)
        give_gradients(theirs, step, missing=0.2)
        optimizer.step()
        with torch.no_grad():
            for name, p in theirs.named_parameters():
                update = 0 if p.grad is None else 0.1 * p.grad.sign()
                p.copy_(mask.get(name, torch.ones(())) * (p - update))
    assert_same_weights(ours, theirs)
    assert not optimizer.state and not optimizer.named_state()
    resumed = SignSGD(network().named_parameters(), lr=7.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert resumed.param_groups[0]["lr"] == 0.1
    optimizer.set_mask(None)
    give_gradients(ours, 9)
    optimizer.step()
    assert all((p != 0).all() for p in ours.parameters())


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("density", [0.05, 0.4, 2.0])
def test_lion_equals_lion_in_plain_torch(density, live_state):
    ours, theirs = network().to(memory_format=torch.channels_last), network()
    mask = random_mask(ours, density)
    options = {"lr": 0.01, "betas": (0.9, 0.98), "weight_decay": 0.1}
    first = Lion(ours.named_parameters(), mask=mask, live_state=live_state, **options)
    second = PlainLion(theirs, mask=mask, **options)
    for step in range(5):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step, missing=0.2)
            optimizer.step()
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.mul_(mask.get(name, torch.ones(())))
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_adam_without_masked_weights_equals_torchs_adam(dtype, maximize, live_state):
    ours, theirs = network().to(dtype).to(memory_format=torch.channels_last), network().to(dtype)
    options = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "maximize": maximize}
    first = Adam(ours.named_parameters(), mask=random_mask(ours, 2.0), live_state=live_state, **options)
    second = torch.optim.Adam(theirs.parameters(), **options)
    for step in range(5):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step, missing=0.3)  # so that parameters differ in the steps they have made
            optimizer.step()
    assert_same_weights(ours, theirs, 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_masked_weights_and_all_their_state_stay_zero_whatever_gradient_comes(kind, dtype):
    model = network().to(dtype)
    mask = random_mask(model)
    optimizer = kind(model.named_parameters(), lr=0.1, weight_decay=0.1, mask=mask)
    for step, poison in enumerate((float("nan"), float("inf"), 3.0)):
        give_gradients(model, step)
        for name, layer in mask.items():
            model.get_parameter(name).grad[~layer] = poison
        optimizer.step()
        for name, layer in mask.items():
            p = model.get_parameter(name)
            for tensor in (p, *(optimizer.state[p][key] for key in kind.state_keys)):
                assert not tensor[~layer].any() and tensor.isfinite().all()
                assert tensor[layer].any()


@pytest.mark.parametrize("kind", KINDS)
def test_live_state_gives_the_bits_of_dense_state_also_after_a_new_mask(kind):
    models = [network(), network()]
    optimizers = [
        kind(m.named_parameters(), lr=0.1, mask=random_mask(m), live_state=live)
        for m, live in zip(models, (False, True), strict=True)
    ]
    for step in range(6):
        for model, optimizer in zip(models, optimizers, strict=True):
            if step == 3:
                optimizer.set_mask(random_mask(model, 0.3, 5))
            give_gradients(model, step, missing=0.2)
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True))
    dense, live = (optimizer.state_dict()["state"] for optimizer in optimizers)
    assert all(torch.equal(dense[k][key], live[k][key]) for k in dense for key in dense[k])
    stored = [sum(t.numel() for entry in o.state.values() for t in entry.values()) for o in optimizers]
    assert stored[1] < 0.8 * stored[0]


@pytest.mark.parametrize("kind", KINDS)
def test_each_network_gets_to_the_bit_what_it_gets_alone(kind):
    together, alone = ([network(seed) for seed in range(2)] for _ in range(2))
    masks = [random_mask(together[0]), None]
    optimizer = kind.of_networks(together, masks, lr=[0.1, 0.02], betas=[(0.9, 0.99), (0.5, 0.9)], weight_decay=0.1)
    single = [
        kind(model.named_parameters(), lr=lr, betas=betas, weight_decay=0.1, mask=mask)
        for model, mask, lr, betas in zip(alone, masks, (0.1, 0.02), ((0.9, 0.99), (0.5, 0.9)), strict=True)
    ]
    for step in range(3):
        for k in range(2):
            for model in (together[k], alone[k]):
                give_gradients(model, 10 * step + k, missing=0.2)
            single[k].step()
        optimizer.step()
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def test_a_pair_of_betas_is_one_value_for_all_networks():
    optimizer = Adam.of_networks([network(), network()], betas=(0.5, 0.9))
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.9)] * 2


@pytest.mark.parametrize("direction", ["to torch", "from torch", "to ours", "to ours with live state"])
def test_training_goes_on_from_a_state_dict(direction):
    ours, theirs, new = network(), network(), network(seed=5)
    first, second = Adam(ours.named_parameters(), lr=0.01), torch.optim.Adam(theirs.named_parameters(), lr=0.01)
    for step in range(3):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step, missing=0.3)
            optimizer.step()
    model, saved = (theirs, second) if direction == "from torch" else (ours, first)
    new.load_state_dict(model.state_dict())
    resumed = (
        torch.optim.Adam(new.named_parameters(), lr=7.0)
        if direction == "to torch"
        else Adam(new.named_parameters(), lr=7.0, live_state=direction.endswith("live state"))
    )
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    for step in range(3, 6):
        for trained, optimizer in ((model, saved), (new, resumed)):
            give_gradients(trained, step, missing=0.3)
            optimizer.step()
    assert_same_weights(new, model, 1e-5)


def test_a_saved_state_counts_the_steps_of_each_parameter_and_a_copy_goes_on_counting():
    model = network()
    optimizer = Adam(model.named_parameters())
    counts = [0] * len(list(model.parameters()))
    for step in range(4):
        give_gradients(model, step, missing=0.5)
        counts = [n + (p.grad is not None) for n, p in zip(counts, model.parameters(), strict=True)]
        optimizer.step()
        model, optimizer = copy.deepcopy((model, optimizer))
    saved = optimizer.state_dict()["state"]
    assert [int(saved[i]["step"]) if i in saved else 0 for i in range(len(counts))] == counts


def test_a_step_that_is_skipped_is_not_counted():
    model, other = network(), network()
    one, two = Adam(model.named_parameters(), lr=0.1), Adam(other.named_parameters(), lr=0.1)
    scale = {"grad_scale": torch.tensor(4.0), "found_inf": torch.tensor(0.0)}
    for step, skipped in itertools.product(range(3), (True, False)):
        give_gradients(model, step)
        for p in model.parameters():
            p.grad *= 4
        one.__dict__.update(scale, found_inf=torch.tensor(float(skipped)))
        one.step()
    for step in range(3):
        give_gradients(other, step)
        two.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_dropping_the_state_begins_anew():
    ours, theirs = network(), network()
    first, second = Adam(ours.named_parameters(), lr=0.1), torch.optim.Adam(theirs.parameters(), lr=0.1)
    for step in range(4):
        for model, optimizer in ((ours, first), (theirs, second)):
            if step == 2:
                optimizer.state.clear()
            give_gradients(model, step)
            optimizer.step()
    assert_same_weights(ours, theirs, 1e-5)


def test_a_restart_in_the_same_memory_is_a_new_training():
    model, other = network(), network()
    mask = random_mask(model)
    optimizer = Adam(model.named_parameters(), lr=0.1)
    memory: Tensor = optimizer._arena.state
    for step in range(2):
        give_gradients(model, step)
        optimizer.step()
    state = {name: {k: t.clone() for k, t in entry.items()} for name, entry in optimizer.named_state().items()}
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    give_gradients(model, 7)
    optimizer.step()
    model.load_state_dict(saved[0])
    optimizer.restart(mask, state)
    assert optimizer._arena.state.data_ptr() == memory.data_ptr()
    other.load_state_dict(saved[0])
    resumed = Adam(other.named_parameters(), mask=mask)
    resumed.load_state_dict(saved[1])
    for step in range(2, 4):
        for trained, each in ((model, optimizer), (other, resumed)):
            give_gradients(trained, step)
            each.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_numbers_are_checked_and_the_state_of_another_model_is_refused():
    with pytest.raises(SettingError, match="eps is '0': expected a number"):
        Adam(network().named_parameters(), eps="0")
    with pytest.raises(SettingError, match="a parameter group has 'live_state': give it to Adam"):
        Adam([{"params": list(network().parameters()), "live_state": True}])
    model, other = network(), network()
    other[5] = nn.Linear(90, 4)
    source = torch.optim.Adam(other.parameters())
    give_gradients(other, 0)
    source.step()
    with pytest.raises(SettingError, match=r"the saved exp_avg of 5\.weight has shape \(4, 90\)"):
        Adam(model.named_parameters()).load_state_dict(source.state_dict())


@pytest.mark.parametrize("live_state", [False, True])
def test_the_kernel_of_a_toy_passes_torchs_own_checks(live_state):
    from sparselt.kernels._optimizer.layout import block_table, pack_mask

    live = torch.rand(2048, generator=torch.Generator().manual_seed(0)) < 0.5
    blocks, places = block_table(live)
    state = torch.zeros(2, places if live_state else 2048)
    rows = torch.tensor([[0.1, 0.9, 0.99, 1e-8, 0.1, 1.0]])
    tensors = [[torch.ones(5), torch.ones(4, 3)], [torch.ones(5), torch.ones(4, 3)], state, pack_mask(live), rows]
    options = {"blocks": blocks, "live_state": live_state, "steps": torch.zeros(2, dtype=torch.int32)}
    Adam.operation(*copy.deepcopy(tensors), **options)
    operator = torch.ops.sparselt.toy_adam.default
    torch.library.opcheck(operator, (*tensors, [0, 1024], [0, 0], False, True), kwargs=options)


def test_an_edited_rule_is_compiled_anew(tmp_path):
    # Numba's cache does not see that another file has changed.
    program = """
import torch, own
from sparselt.kernels._optimizer.layout import pack_mask
weight = torch.zeros(3)
rows = torch.tensor([[1.0, 1.0]])
own.operation([weight], [torch.ones(3)], torch.zeros(0, 1024), pack_mask(torch.ones(1024).bool()), rows)
print(weight.tolist())
"""
    rule = """
from typing import NamedTuple
from sparselt.kernels._optimizer import Operation
FACTOR = {factor}
class Columns(NamedTuple):
    lr: float
    sign: float
def rule(h, weight, gradient, state, step):
    return weight - FACTOR * h.lr * gradient, ()
operation = Operation("own", Columns, 0, rule)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    for factor in (2.0, 2.0, 3.0):
        (tmp_path / "own.py").write_text(rule.format(factor=factor))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.stdout.strip() == str([-factor] * 3), done.stderr


def test_an_optimizer_without_a_rule_for_a_gpu_says_so():
    pytest.importorskip("triton", reason="no Triton on this platform")
    from sparselt.kernels._optimizer import gpu

    optimizer = Adam(network().named_parameters())
    launch = type("Given", (), {"layout": optimizer._layout, "state": optimizer._arena.state})
    with pytest.raises(NotImplementedError, match="toy_adam has no rule for a GPU"):
        gpu.step(Adam.operation, launch)
