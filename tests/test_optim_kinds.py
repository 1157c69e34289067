"""What masked optimizers share, with Adam, RMSprop and toys: beside torch's optimizers, and a plain Lion."""

import copy
import itertools
import os
import subprocess
import sys

import pytest
import torch
from optim_cases import assert_same_weights, give_gradients, network, random_mask
from optim_toys import Lion, SignSGD
from torch import Tensor, nn

from sparselt import MaskedAdam, MaskedAdamW, MaskedRMSprop
from sparselt.errors import SettingError

AMSGRAD, PLAIN, CENTERED = {"amsgrad": True}, {}, {"centered": True, "momentum": 0.8}
KINDS = [
    pytest.param(kind, options, id=kind.__name__ + ("" if options == PLAIN else " " + next(iter(options))))
    for kind, options in [
        (Lion, PLAIN),
        (MaskedAdam, PLAIN),
        (MaskedAdamW, AMSGRAD),
        (MaskedRMSprop, PLAIN),
        (MaskedRMSprop, CENTERED),
    ]
]
OF_TORCH = KINDS[1:]


def torchs(kind):
    """Torch's optimizer of the same rule."""
    return getattr(torch.optim, kind.__name__.removeprefix("Masked"))


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
@pytest.mark.parametrize(("kind", "options"), OF_TORCH)
def test_without_masked_weights_the_weights_are_those_of_torch(kind, options, dtype, maximize, live_state):
    ours, theirs = network().to(dtype).to(memory_format=torch.channels_last), network().to(dtype)
    options = {"lr": 0.01, "weight_decay": 0.1, "maximize": maximize, **options}
    first = kind(ours.named_parameters(), mask=random_mask(ours, 2.0), live_state=live_state, **options)
    second = torchs(kind)(theirs.parameters(), **options)
    for step in range(30):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step, missing=0.3)  # so that parameters differ in the steps they have made
            optimizer.step()
    assert_same_weights(ours, theirs, 1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_masked_weights_and_all_their_state_stay_zero_whatever_gradient_comes(kind, options, dtype):
    model = network().to(dtype)
    mask = random_mask(model)
    optimizer = kind(model.named_parameters(), lr=0.1, weight_decay=0.1, mask=mask, **options)
    for step, poison in enumerate((float("nan"), float("inf"), 3.0)):
        give_gradients(model, step)
        for name, layer in mask.items():
            model.get_parameter(name).grad[~layer] = poison
        optimizer.step()
        for name, layer in mask.items():
            p = model.get_parameter(name)
            for tensor in (p, *(optimizer.state[p][key] for key in optimizer.state_keys)):
                assert not tensor[~layer].any() and tensor.isfinite().all()
                assert tensor[layer].any()


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_live_state_gives_the_bits_of_dense_state_also_after_a_new_mask(kind, options):
    models = [network(), network()]
    optimizers = [
        kind(m.named_parameters(), lr=0.1, mask=random_mask(m), live_state=live, **options)
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


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_each_network_gets_to_the_bit_what_it_gets_alone(kind, options):
    together, alone = ([network(seed) for seed in range(2)] for _ in range(2))
    masks = [random_mask(together[0]), None]
    own = {"lr": [0.1, 0.02], **{key: [value, type(value)(0)] for key, value in options.items()}}
    own |= {"alpha": [0.9, 0.5]} if kind is MaskedRMSprop else {"betas": [(0.9, 0.99), (0.5, 0.9)]}
    optimizer = kind.of_networks(together, masks, weight_decay=0.1, **own)
    single = [
        kind(model.named_parameters(), weight_decay=0.1, mask=masks[k], **{key: own[key][k] for key in own})
        for k, model in enumerate(alone)
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
    optimizer = MaskedAdam.of_networks([network(), network()], betas=(0.5, 0.9))
    assert [group["betas"] for group in optimizer.param_groups] == [(0.5, 0.9)] * 2


@pytest.mark.parametrize(("kind", "options"), OF_TORCH)
@pytest.mark.parametrize("direction", ["to torch", "from torch", "to ours", "to ours with live state"])
def test_training_goes_on_from_a_state_dict(kind, options, direction):
    ours, theirs, new = network(), network(), network(seed=5)
    first = kind(ours.named_parameters(), lr=0.01, **options)
    second = torchs(kind)(theirs.named_parameters(), lr=0.01, **options)
    for step in range(3):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step, missing=0.3)
            optimizer.step()
    model, saved = (theirs, second) if direction == "from torch" else (ours, first)
    new.load_state_dict(model.state_dict())
    resumed = (
        torchs(kind)(new.named_parameters(), lr=7.0)
        if direction == "to torch"
        else kind(new.named_parameters(), lr=7.0, live_state=direction.endswith("live state"))
    )
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    step_of = next(iter(resumed.state_dict()["state"].values()))["step"]
    assert step_of.dtype == torch.float32 and step_of.dim() == 0
    for step in range(3, 6):
        for trained, optimizer in ((model, saved), (new, resumed)):
            give_gradients(trained, step, missing=0.3)
            optimizer.step()
    assert_same_weights(new, model, 1e-5)


def test_a_saved_state_counts_the_steps_of_each_parameter_and_a_copy_goes_on_counting():
    model = network()
    optimizer = MaskedAdam(model.named_parameters())
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
    one, two = MaskedAdam(model.named_parameters(), lr=0.1), MaskedAdam(other.named_parameters(), lr=0.1)
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


@pytest.mark.parametrize(
    ("option", "value", "key"),
    [("amsgrad", True, "max_exp_avg_sq"), ("momentum", 0.8, "momentum_buffer"), ("centered", True, "grad_avg")],
)
@pytest.mark.parametrize("live_state", [False, True])
def test_an_option_that_needs_another_buffer_may_be_switched_on_and_off(option, value, key, live_state):
    kind = MaskedAdam if option == "amsgrad" else MaskedRMSprop
    ours, theirs = network(), network()
    first = kind(ours.named_parameters(), lr=0.1, mask=random_mask(ours, 2.0), live_state=live_state)
    second = torchs(kind)(theirs.named_parameters(), lr=0.1)
    for step, switched in enumerate((False, True, True, False, True)):
        for model, optimizer in ((ours, first), (theirs, second)):
            optimizer.param_groups[0][option] = value if switched else type(value)(0)
            if optimizer is second and switched:
                for p, entry in optimizer.state.items():
                    entry.setdefault(key, torch.zeros_like(p))
            give_gradients(model, step)
            optimizer.step()
        assert_same_weights(ours, theirs)
        assert (key in first.state_keys) == switched


def test_adamw_decays_decoupled_with_a_state_of_adam():
    model = network()
    saved = MaskedAdam(model.named_parameters(), lr=0.1, weight_decay=0.2).state_dict()
    optimizer = MaskedAdamW(model.named_parameters())
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] and optimizer.param_groups[0]["weight_decay"] == 0.2


@pytest.mark.parametrize(("kind", "options"), OF_TORCH)
def test_tensor_hyperparameters_are_read_in_every_step(kind, options):
    ours, theirs = network(), network()
    numbers = {"lr": 0.1, "weight_decay": 0.1, "eps": 0.01}
    tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in numbers.items()}
    first = kind(ours.named_parameters(), **options, **tensors)
    second = kind(theirs.named_parameters(), **options, **numbers)
    for step in range(3):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step)
            optimizer.step()
        for key in numbers:
            tensors[key].mul_(0.5)
            second.param_groups[0][key] *= 0.5
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_dropping_the_state_begins_anew():
    ours, theirs = network(), network()
    first, second = MaskedAdam(ours.named_parameters(), lr=0.1), torch.optim.Adam(theirs.parameters(), lr=0.1)
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
    optimizer = MaskedAdam(model.named_parameters(), lr=0.1)
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
    resumed = MaskedAdam(other.named_parameters(), mask=mask)
    resumed.load_state_dict(saved[1])
    for step in range(2, 4):
        for trained, each in ((model, optimizer), (other, resumed)):
            give_gradients(trained, step)
            each.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def test_numbers_are_checked_and_the_state_of_another_model_is_refused():
    for kind, option, value, words in (
        (MaskedAdam, "eps", "0", "eps is '0': expected a number"),
        (MaskedAdam, "eps", -1.0, "eps is -1.0: expected 0 or more"),
        (MaskedAdam, "betas", (0.9,), r"betas is \(0.9,\): expected two numbers"),
        (MaskedAdamW, "betas", (0.9, 1.0), r"betas is \(0.9, 1.0\): expected two numbers from 0 to below 1"),
        (MaskedRMSprop, "alpha", 1.0, "alpha is 1.0: expected a number from 0 to below 1"),
        (MaskedRMSprop, "momentum", float("nan"), "momentum is nan"),
    ):
        with pytest.raises(SettingError, match=words):
            kind(network().named_parameters(), **{option: value})
    with pytest.raises(SettingError, match="a parameter group has 'live_state': give it to MaskedAdam"):
        MaskedAdam([{"params": list(network().parameters()), "live_state": True}])
    model, other = network(), network()
    other[5] = nn.Linear(90, 4)
    source = torch.optim.Adam(other.parameters())
    give_gradients(other, 0)
    source.step()
    with pytest.raises(SettingError, match=r"the saved exp_avg of 5\.weight has shape \(4, 90\)"):
        MaskedAdam(model.named_parameters()).load_state_dict(source.state_dict())


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

    optimizer = Lion(network().named_parameters())
    launch = type("Given", (), {"layout": optimizer._layout, "state": optimizer._arena.state})
    with pytest.raises(NotImplementedError, match="toy_lion has no rule for a GPU"):
        gpu.step(Lion.operation, launch)
