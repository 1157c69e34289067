"""Adam and RMSprop on a CUDA device: the rules, and a captured step that goes on counting. `make gpu` runs these."""

import pytest
import torch
from adaptive_cases import RULES, assert_answers, run
from cuda_graphs import stepping
from kernel_cases import Case
from torch import nn

from sparselt import MaskedAdam, MaskedAdamW, MaskedRMSprop

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SHAPES = [(64, 32, 3, 3), (5,), (123, 41), (), (1025,), (100_003,), (0,)]
KINDS = [(MaskedAdam, {}), (MaskedAdam, {"amsgrad": True}), (MaskedAdamW, {}), (MaskedRMSprop, {"momentum": 0.9})]


def on_device(case: Case) -> Case:
    case.parameters = [torch.empty_like(p, device="cuda").copy_(p) for p in case.parameters]
    case.gradients = [[torch.empty_like(g, device="cuda").copy_(g) for g in step] for step in case.gradients]
    return case


@pytest.mark.parametrize("mask", ["empty", "full", "one weight", "random", "few"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(RULES))
def test_rules_match_the_reference_with_dense_and_with_live_state(name, dtype, mask):
    dense, live = (on_device(Case(SHAPES, "channels last", mask, dtype, dtype == torch.float32)) for _ in range(2))
    (state, _), (compact, _) = run(dense, RULES[name]), run(live, RULES[name], live_state=True)
    if dtype == torch.float32:
        assert_answers(dense, RULES[name], state, f"cuda, {name}")
    alive = dense.live()
    for p, q in zip(dense.parameters, live.parameters, strict=True):
        assert torch.equal(p.nan_to_num(), q.nan_to_num())
    for row, compact_row in zip(state.cpu(), compact.cpu(), strict=True):
        assert torch.equal(live.expanded(compact_row)[alive].nan_to_num(), row[alive].nan_to_num())


@pytest.mark.parametrize("begun", [9, 999, 1_000_000])
@pytest.mark.parametrize("name", ["adam", "adamw", "adam without averages"])
def test_late_steps_are_as_exact_as_early_ones(name, begun):
    case = on_device(Case([(5000,)], mask="full", special=False, steps=1))
    state, _ = run(case, RULES[name], begun=begun)
    assert_answers(case, RULES[name], state, f"cuda, {name}", begun)


def give_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        p.grad.copy_(torch.randn(p.shape, generator=generator))


@pytest.mark.parametrize(("kind", "options"), KINDS)
@pytest.mark.parametrize("live_state", [False, True])
def test_a_replayed_step_counts_on_and_skips_a_step_with_an_infinity(kind, options, live_state):
    results = []
    for captured in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(100, 70).cuda()
        mask = {"weight": torch.rand(70, 100, generator=torch.Generator().manual_seed(1)) < 0.3}
        rate = torch.tensor(0.1, device="cuda")
        optimizer = kind(model.named_parameters(), lr=rate, mask=mask, live_state=live_state, **options)
        optimizer.found_inf = torch.zeros(1, device="cuda")
        give_gradients(model, 0)
        make_step = stepping(optimizer, captured)
        for step in range(5):
            give_gradients(model, step)
            rate.mul_(0.8)
            optimizer.found_inf.fill_(float(step == 2))
            make_step()
        assert not model.weight.detach().cpu()[~mask["weight"]].any()
        assert {int(entry["step"]) for entry in optimizer.state_dict()["state"].values()} == {5}
        results.append([p.detach().clone() for p in model.parameters()])
    assert all(torch.equal(p, q) for p, q in zip(*results, strict=True))


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_without_masked_weights_the_weights_are_those_of_torch(kind, options):
    torch.manual_seed(0)
    ours, theirs = nn.Linear(100, 70).cuda(), nn.Linear(100, 70).cuda()
    theirs.load_state_dict(ours.state_dict())
    first = kind(ours.named_parameters(), lr=0.01, weight_decay=0.1, **options)
    torchs = getattr(torch.optim, kind.__name__.removeprefix("Masked"))
    second = torchs(theirs.parameters(), lr=0.01, weight_decay=0.1, **options)
    for step in range(20):
        for model, optimizer in ((ours, first), (theirs, second)):
            give_gradients(model, step)
            optimizer.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
