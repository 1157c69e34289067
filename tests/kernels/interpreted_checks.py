"""masked_sgd's Triton kernel in Triton's interpreter, on CPU tensors, against the references.

Run by test_interpreter.py.
"""

import pytest
import torch
from far_memory import far_tensor
from kernel_cases import Case, Options, assert_answers

from sparselt.kernels._optimizer import Launch, gpu
from sparselt.kernels._optimizer.layout import Layout
from sparselt.kernels._tensors import addresses_of
from sparselt.kernels.masked_sgd import block_table, operation, pack_bits, padded_offsets

SHAPES = [(16, 5, 3, 3), (5,), (40, 40), (), (1025,), (0,), (2048,)]


def launch(parameters, gradients, momentum, bits, rows, *, offsets=None, groups=None, first_step=False, **options):
    offsets = padded_offsets([p.numel() for p in parameters])[0] if offsets is None else offsets
    layout = Layout([p.numel() for p in parameters], offsets, groups or [0] * len(parameters))
    gpu.step(
        operation,
        Launch(
            layout=layout,
            dtype=parameters[0].dtype,
            addresses=addresses_of(parameters, gradients),
            state=momentum.view(1, -1),
            mask=bits,
            hyperparameters=rows,
            first_step=first_step,
            **options,
        ),
    )


def run(case: Case, chosen: Options, live_momentum: bool = False, **options) -> torch.Tensor:
    live = case.live()
    blocks, places = block_table(live)
    momentum = torch.full((places if live_momentum else case.length,), float("nan"))
    bits, rows = pack_bits(live), torch.tensor([chosen.row()])
    for i, gradients in enumerate(case.gradients):
        options["blocks"], options["live_state"] = blocks, live_momentum
        first = i == 0 and "steps" not in options
        launch(case.parameters, gradients, momentum, bits, rows, first_step=first, **options)
    return momentum


@pytest.mark.parametrize("mask", ["random", "few", "empty", "one weight", "full"])
@pytest.mark.parametrize(
    "chosen",
    [
        Options(weight_decay=0.1, dampening=0.3),
        Options(nesterov=True, shrink=0.95),
        Options(momentum=0.0, weight_decay=0.1, maximize=True),
    ],
    ids=["dampening", "nesterov", "plain"],
)
def test_masked_sgd_matches_the_reference_with_dense_and_with_live_momentum(chosen, mask):
    dense, live = (Case(SHAPES, "channels last", mask, steps=2) for _ in range(2))
    momentum, compact = run(dense, chosen), run(live, chosen, live_momentum=True)
    assert_answers(dense, chosen, momentum, "triton")
    for p, q in zip(dense.parameters, live.parameters, strict=True):
        assert torch.equal(p.view(torch.int32), q.view(torch.int32))
    if chosen.momentum != 0:
        assert torch.equal(
            live.expanded(compact).view(torch.int32)[live.live()], momentum.view(torch.int32)[live.live()]
        )


def test_masked_sgd_in_bfloat16():
    # The interpreter truncates to bfloat16 where the hardware rounds, hence the tolerance of a whole unit a step.
    case = Case(SHAPES, "channels last", dtype=torch.bfloat16, special=False, steps=2)
    assert_answers(case, Options(), run(case, Options()), "triton")


def test_a_block_that_has_not_begun_makes_its_first_step():
    chosen = Options(dampening=0.5)
    one, other = Case(SHAPES, special=False), Case(SHAPES, special=False)
    steps = torch.zeros(one.length // 1024, dtype=torch.int32)
    momentum = run(one, chosen, steps=steps)
    assert steps.all()
    assert torch.equal(momentum[one.live()], run(other, chosen)[one.live()])
    steps.zero_()
    run(one, Options(momentum=0.0), steps=steps)
    assert not steps.any()


def test_gradients_are_unscaled_and_a_step_with_an_infinity_changes_nothing():
    chosen = Options(weight_decay=0.1)
    one, other = Case(SHAPES, special=False, steps=1), Case(SHAPES, special=False, steps=1)
    other.gradients = [[g * 64 for g in gradients] for gradients in other.gradients]
    scale, found, steps = torch.tensor([64.0]), torch.tensor([1.0]), torch.zeros(other.length // 1024).int()
    momentum = run(other, chosen, grad_scale=scale, found_inf=found, steps=steps)
    assert momentum.isnan().all() and not steps.any()
    assert all(torch.equal(p, q) for p, q in zip(other.parameters, other.start, strict=True))
    run(one, chosen)
    run(other, chosen, grad_scale=scale, found_inf=torch.zeros(1), steps=steps)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters, other.parameters, strict=True))


def test_masked_sectors_are_left_alone_unless_told_to_rewrite_them():
    for rewrite in (False, True):
        case = Case([(2048,)], mask="empty", special=False)
        case.masks[0][8:16] = True
        case.parameters[0].fill_(7.0)
        run(case, Options(), rewrite=rewrite)
        outside = torch.cat([case.parameters[0][:8], case.parameters[0][16:]])
        assert (outside == (0.0 if rewrite else 7.0)).all()
        assert (case.parameters[0][8:16] != 7.0).all()


def test_groups_an_unaligned_parameter_and_one_without_a_gradient():
    memory = torch.zeros(4096)
    weights = [memory[1:2001], torch.zeros(10), torch.zeros(10)]
    rows = torch.tensor([Options(lr=1.0, momentum=0.0).row(), Options(lr=2.0, momentum=0.0).row()])
    gradients = [torch.ones(2000), torch.ones(10), None]
    launch(weights, gradients, torch.zeros(4096), torch.full((512,), 255).byte(), rows, groups=[1, 0, 0])
    assert (weights[0] == -2).all() and (weights[1] == -1).all() and not weights[2].any()
    assert memory[0] == 0 and not memory[2001:].any()


@pytest.mark.parametrize("live_momentum", [False, True])
@pytest.mark.parametrize("offset", [2**31 + 1024, 2**32 + 2048])
def test_arenas_longer_than_32_bits_count(offset, live_momentum):
    length, place = offset + 2048, offset + 16 if live_momentum else offset
    momentum, bits = far_tensor(length + 16, torch.float32), far_tensor(length // 8, torch.uint8)
    blocks, steps = far_tensor(length // 1024 * 2, torch.int64).view(-1, 2), far_tensor(length // 1024, torch.int32)
    bits[offset // 8 : offset // 8 + 188] = 255
    blocks[offset // 1024 :, 0], blocks[offset // 1024 :, 1] = (
        torch.tensor([1024, 476]),
        torch.tensor([0, 1024]) + place,
    )
    weights, gradients, rows = [torch.zeros(1500)], [torch.ones(1500)], torch.tensor([Options(lr=1.0).row()])
    options = {"offsets": [offset], "blocks": blocks, "live_state": live_momentum, "steps": steps}
    launch(weights, gradients, momentum, bits, rows, **options)
    assert (weights[0] == -1).all() and (momentum[place : place + 1500] == 1).all()
    assert momentum[place - 8 : place].sum() == 0 and steps[offset // 1024 :].tolist() == [1, 1]
