"""The Triton kernel of masked optimizers with one to three buffers and with none, in Triton's interpreter.

Run by test_interpreter.py.
"""

import pytest
import torch
from adaptive_cases import RULES, assert_answers, run
from kernel_cases import Case
from no_buffer import operation as without_state

from sparselt.kernels._optimizer import Launch, gpu
from sparselt.kernels._optimizer.layout import Layout, pack_bits, pack_mask
from sparselt.kernels._tensors import addresses_of

SHAPES = [(16, 5, 3, 3), (40, 40), (), (1025,), (0,), (2048,)]
SMALL = [(33, 31), (5,), ()]


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("mask", ["random", "few", "empty", "one weight", "full"])
def test_two_buffers_match_the_reference_under_every_mask(mask, live_state):
    assert_matches(Case(SHAPES, "channels last", mask), "adam", live_state)


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rule_matches_the_reference(name, live_state):
    assert_matches(Case(SMALL), name, live_state)


def assert_matches(case: Case, name: str, live_state: bool, begun: int = 0) -> None:
    state, steps = run(case, RULES[name], gpu.step, live_state=live_state, begun=begun)
    missed = -(-case.parameters[0].numel() // 1024)  # the first parameter has no gradient in the second step
    assert steps.tolist() == [
        begun + len(case.gradients) - (i < missed and len(case.gradients) > 1) for i in range(len(steps))
    ]
    dense = torch.stack([case.expanded(row) for row in state]) if live_state else state
    assert_answers(case, RULES[name], dense, f"triton, {name}", begun)


@pytest.mark.parametrize("begun", [9, 999, 1_000_000])
@pytest.mark.parametrize("name", ["adam", "adamw", "adam without averages"])
def test_late_steps_are_as_exact_as_early_ones(name, begun):
    assert_matches(Case([(500,)], mask="full", special=False, steps=1), name, False, begun)


@pytest.mark.parametrize("mask", ["random", "few", "empty", "full"])
def test_a_rule_without_state_matches_the_cpu(mask):
    one, other = (Case(SHAPES, "channels last", mask, special=False) for _ in range(2))
    for case, pack in ((one, pack_bits), (other, pack_mask)):
        steps = torch.zeros(case.length // 1024, dtype=torch.int32)
        launch = Launch(
            layout=Layout([p.numel() for p in case.parameters], case.offsets, [0] * len(case.parameters)),
            dtype=torch.float32,
            addresses=addresses_of(case.parameters, case.gradients[0]),
            state=torch.zeros(0, case.length),
            mask=pack(case.live()),
            hyperparameters=torch.tensor([[0.1, 1.0]]),
            steps=steps,
        )
        gpu.step(without_state, launch) if case is one else without_state.launch(launch)
        assert not steps.any()
    for p, q in zip(one.parameters, other.parameters, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-6)
