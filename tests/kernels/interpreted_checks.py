"""The Triton kernels in Triton's interpreter, on CPU tensors, against the references. Run by test_interpreter.py."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import Case, Options, assert_answers
from sparselt.kernels import philox
from sparselt.kernels.augment import gpu as augment_gpu
from sparselt.kernels.augment import reference
from sparselt.kernels.masked_sgd import gpu, pack_bits

SHAPES = [(16, 5, 3, 3), (5,), (40, 40), (), (1025,), (0,), (2048,)]


@pytest.mark.parametrize("mask", ["random", "few", "empty", "one weight"])
@pytest.mark.parametrize(
    "chosen",
    [
        Options(weight_decay=0.1, dampening=0.3),
        Options(nesterov=True, shrink=0.95),
        Options(momentum=0.0, weight_decay=0.1, maximize=True),
    ],
    ids=["dampening", "nesterov", "plain"],
)
def test_masked_sgd_matches_the_reference(chosen, mask):
    case = Case(SHAPES, "channels last", mask)
    momentum = run(case, chosen, rewrite=True)
    assert_answers(case, chosen, momentum, "triton")


def test_masked_sgd_in_bfloat16():
    # The interpreter truncates to bfloat16 where the hardware rounds, hence the tolerance of a whole unit a step.
    case = Case(SHAPES, "channels last", dtype=torch.bfloat16, special=False, steps=2)
    assert_answers(case, Options(), run(case, Options(), rewrite=True), "triton")


def test_masked_sectors_are_left_alone_unless_told_to_rewrite_them():
    for rewrite in (False, True):
        case = Case([(2048,)], mask="empty", special=False)
        case.masks[0][8:16] = True
        case.parameters[0].fill_(7.0)
        run(case, Options(), rewrite=rewrite)
        outside = torch.cat([case.parameters[0][:8], case.parameters[0][16:]])
        assert (outside == (0.0 if rewrite else 7.0)).all()
        assert (case.parameters[0][8:16] != 7.0).all()


def test_two_groups_and_an_unaligned_parameter():
    memory = torch.zeros(4096)
    weights = [memory[1:2001], torch.zeros(10)]
    rows = torch.tensor([Options(lr=1.0, momentum=0.0).row(), Options(lr=2.0, momentum=0.0).row()])
    gradients = [torch.ones(2000), torch.ones(10)]
    gpu.step(
        weights, gradients, torch.zeros(3072), torch.full((384,), 255).byte(), rows, [0, 2048], [1, 0], False, True
    )
    assert (weights[0] == -2).all() and (weights[1] == -1).all()
    assert memory[0] == 0 and not memory[2001:].any()


def run(case: Case, chosen: Options, rewrite: bool) -> torch.Tensor:
    momentum = torch.full((case.length,), float("nan"))
    bits, rows, groups = pack_bits(case.live()), torch.tensor([chosen.row()]), [0] * len(case.parameters)
    for i, gradients in enumerate(case.gradients):
        gpu.step(case.parameters, gradients, momentum, bits, rows, case.offsets, groups, i == 0, rewrite)
    return momentum


@pytest.mark.parametrize(
    ("channels", "height", "width", "padding", "flip", "seed", "epoch", "last"),
    [
        (3, 9, 7, 2, True, 2**64 - 3, 2**31 - 1, True),
        (1, 8, 8, 1, False, 1, 0, False),
        (3, 20, 20, 4, True, 5, 1, True),
    ],
)
def test_augment_draws_and_computes_the_same(channels, height, width, padding, flip, seed, epoch, last):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, height, width, channels), dtype=torch.uint8, generator=generator)
    images, indices = images.permute(0, 3, 1, 2), torch.tensor([0, 1, 2**31, 2**32 - 1, 77])
    mean, std = [0.4, 0.5, 0.6][:channels], [0.2, 0.3, 0.25][:channels]
    signed = seed - 2**64 if seed >= 2**63 else seed
    got = augment_gpu.augment(images, indices, signed, epoch, padding, flip, mean, std, 255.0, last)
    expected = reference.augment(
        images, indices, seed=seed, epoch=epoch, padding=padding, flip=flip, mean=mean, std=std
    )
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


@triton.jit
def draw(out, seed, sample, epoch, stream):
    word0, word1, word2, word3 = tl.philox(seed, sample, epoch, stream, 0)
    tl.store(out, word0.to(tl.int64))
    tl.store(out + 1, word1.to(tl.int64))
    tl.store(out + 2, word2.to(tl.int64))
    tl.store(out + 3, word3.to(tl.int64))


@pytest.mark.parametrize("seed", [0, 1, 2**40 + 17])
def test_triton_draws_the_same_words(seed):
    out = torch.zeros(4, dtype=torch.int64)
    draw[(1,)](out, seed, 1234, 5, philox.FLIP)
    assert out.tolist() == philox.philox4x32(np.array([[1234, 5, philox.FLIP, 0]]), *philox.key_of(seed))[0].tolist()
