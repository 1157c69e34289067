"""The rules of Adam and RMSprop on the CPU against the float64 references, against torch, and as torch operators."""

import pytest
import torch
from adaptive_cases import RULES, Rule, adam_row, assert_answers, run
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import Case, kinds_of_mask, memory, shapes

from sparselt.kernels._optimizer.layout import block_table, pack_mask
from sparselt.kernels.masked_adam import operation

quick = settings(max_examples=60, deadline=None, derandomize=True)
rules = st.sampled_from(sorted(RULES))
LARGE_STEP = 1_000_000


@quick
@given(rules, shapes, memory, kinds_of_mask, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 99))
def test_matches_the_float64_reference(name, shapes, order, mask, dtype, seed):
    case = Case(shapes, order, mask, dtype, seed=seed)
    state, _ = run(case, RULES[name])
    assert_answers(case, RULES[name], state, name)


@quick
@given(rules, shapes, memory, kinds_of_mask, st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_live_state_gives_the_bits_of_dense_state(name, shapes, order, mask, dtype):
    one, other = (Case(shapes, order, mask, dtype) for _ in range(2))
    (dense, steps), (live, live_steps) = run(one, RULES[name]), run(other, RULES[name], live_state=True)
    assert torch.equal(steps, live_steps)
    pairs = [*zip(one.parameters, other.parameters, strict=True)]
    pairs += [
        (row[one.live()], other.expanded(live_row)[other.live()]) for row, live_row in zip(dense, live, strict=True)
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", sorted(RULES))
def test_bfloat16_weights_keep_float32_state(name):
    case = Case([(40, 40), (5,)], dtype=torch.bfloat16, special=False, steps=1)
    state, _ = run(case, RULES[name])
    assert state.dtype == torch.float32
    assert_answers(case, RULES[name], state, name)


@pytest.mark.parametrize("begun", [9, 999, LARGE_STEP])
@pytest.mark.parametrize("name", ["adam", "adamw", "adam without averages", "amsgrad"])
def test_late_steps_are_as_exact_as_early_ones(name, begun):
    case = Case([(500,)], mask="full", special=False, steps=1)
    state, steps = run(case, RULES[name], begun=begun)
    assert steps.tolist() == [begun + 1]
    assert_answers(case, RULES[name], state, name, begun)


@pytest.mark.parametrize(("betas", "begun"), [((0.9, 0.999), 0), ((0.9, 0.999), 5), ((0.99, 0.99999), 20_000)])
def test_one_step_of_adam_is_torchs_to_a_few_units_in_the_last_place(betas, begun):
    case = Case([(4000,)], mask="full", special=False, steps=1)
    weight = torch.nn.Parameter(case.start[0].clone())
    weight.grad = case.gradients[0][0]
    theirs = torch.optim.Adam([weight], lr=0.1, betas=betas, fused=True)
    state = {"step": torch.tensor(float(begun)), "exp_avg": torch.zeros(4000), "exp_avg_sq": torch.zeros(4000)}
    theirs.state[weight] = state
    theirs.step()
    buffers, _ = run(case, Rule(operation, adam_row(*betas)), begun=begun)
    moved, expected = (w - case.start[0] for w in (case.parameters[0], weight.detach()))
    assert ((moved - expected).abs() <= 3 * 2**-23 * case.start[0].abs().clamp(0.1)).all()
    for row, key in zip(buffers, ("exp_avg", "exp_avg_sq"), strict=True):
        assert torch.allclose(row[:4000], state[key], rtol=3 * 2**-23, atol=0)


@pytest.mark.parametrize("name", sorted(RULES))
def test_operators_pass_torchs_own_checks(name):
    rule = RULES[name]
    live = torch.rand(2048, generator=torch.Generator().manual_seed(0)) < 0.5
    blocks, places = block_table(live)
    required = [[torch.ones(5), torch.ones(4, 3)] for _ in range(2)]
    required += [torch.zeros(rule.operation.buffers, places), pack_mask(live), torch.tensor([rule.row])]
    given = {"blocks": blocks, "live_state": True, "steps": torch.zeros(2, dtype=torch.int32)}
    state = required[2] if rule.operation.buffers > 1 else required[2].view(-1)
    arguments = (*required[:2], state, *required[3:], [0, 1024], [0, 0], False, True)
    torch.library.opcheck(getattr(torch.ops.sparselt, rule.operation.name).default, arguments, kwargs=given)


def test_a_variance_that_rounding_made_negative_counts_as_zero():
    case = Case([(3000,)], mask="full", special=False, steps=1)
    case.gradients = [[torch.linspace(0.1, 1.0, 3000)]] * 600
    _, row = (rule := RULES["rmsprop centered"]).operation, rule.row
    state, _ = run(case, rule)
    assert (state[0] - state[1] ** 2 < 0).any(), "the case has no such variance"
    assert case.parameters[0].isfinite().all() and row.centered
