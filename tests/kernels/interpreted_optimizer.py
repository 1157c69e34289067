"""The Triton kernel of masked optimizers with two buffers and with none, in Triton's interpreter, against the CPU pass.

Run by test_interpreter.py.
"""

import pytest
import torch
from kernel_cases import Case
from two_buffers import operation, without_state

from sparselt.kernels._optimizer import Launch, gpu
from sparselt.kernels._optimizer.layout import Layout, block_table, pack_bits, pack_mask
from sparselt.kernels._tensors import addresses_of

SHAPES = [(16, 5, 3, 3), (40, 40), (), (1025,), (0,), (2048,)]


def run(case: Case, on_gpu: bool, live_state: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """All steps, of which the second gives the first parameter no gradient; returns state and counts of steps."""
    live = case.live()
    blocks, places = block_table(live)
    state = torch.full((2, places if live_state else case.length), float("nan"))
    steps = torch.zeros(len(blocks), dtype=torch.int32)
    for i, gradients in enumerate(case.gradients):
        given = [None, *gradients[1:]] if i == 1 else gradients
        launch = Launch(
            layout=Layout([p.numel() for p in case.parameters], case.offsets, [0] * len(case.parameters)),
            dtype=torch.float32,
            addresses=addresses_of(case.parameters, given),
            state=state,
            mask=pack_bits(live) if on_gpu else pack_mask(live),
            hyperparameters=torch.tensor([[0.1, 0.9, 0.8, -1.0]]),
            blocks=blocks,
            live_state=live_state,
            steps=steps,
        )
        gpu.step(operation, launch) if on_gpu else operation.launch(launch)
    return state, steps


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("mask", ["random", "few", "empty", "one weight", "full"])
def test_two_buffers_match_the_cpu(mask, live_state):
    one, other = (Case(SHAPES, "channels last", mask, special=False) for _ in range(2))
    (state, steps), (expected, expected_steps) = run(one, True, live_state), run(other, False, live_state)
    assert steps.tolist() == expected_steps.tolist()
    for p, q, live in zip(one.parameters, other.parameters, one.masks, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-5)
        assert not p[~live].any()
    for row, expected_row in zip(state, expected, strict=True):
        found, wanted = ((one.expanded(r) if live_state else r)[one.live()] for r in (row, expected_row))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        if not live_state:
            written = row[~one.live()]
            assert not written[~written.isnan()].any()  # what is still NaN is padding, which nobody reads


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
