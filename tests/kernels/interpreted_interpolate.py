"""interpolate's Triton kernel in Triton's interpreter, on CPU tensors, against the reference and the ends' bits."""

import pytest
import torch
from far_memory import FAR, far_tensor

from sparselt.kernels.interpolate import gpu, reference

SHAPES = [(16, 5, 3, 3), (5,), (1500,), (), (0,), (2048,)]


@pytest.mark.parametrize(("plane", "masked", "points"), [(False, False, 3), (False, True, 35), (True, True, 5)])
def test_rows_match_the_reference(plane, masked, points):
    generator = torch.Generator().manual_seed(0)
    ends = [[torch.randn(s, generator=generator) for s in SHAPES] for _ in range(3 if plane else 2)]
    masks = [torch.rand(s, generator=generator) < 0.5 if masked and len(s) != 1 else None for s in SHAPES]
    coefficients = torch.rand(2, points, 2, generator=generator) * 2 - 0.5
    if not plane:
        coefficients[:, :, 1] = 0
    prunable = [True, False, True, True, False, False]
    out = [torch.full((points, *s), float("nan")) for s in SHAPES]
    gpu.interpolate(out, ends[0], ends[1], ends[2] if plane else [], coefficients, masks, prunable)
    given, hull = coefficients if plane else coefficients[:, :, 0]
    answers = reference.interpolate(ends, given, hull=hull, prunable=prunable, masks=masks)
    for got, expected in zip(out, answers, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=2e-6, atol=2e-6)


def test_ends_come_to_the_bit_whatever_the_others_hold():
    special = torch.tensor([float("nan"), float("inf"), -0.0, 1.0, -2.0])
    ends = [[special.roll(i).clone()] for i in range(3)]
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    out = [torch.full((3, 5), 7.0)]
    gpu.interpolate(out, *ends, torch.stack([corners, corners]), [None], [True])
    for row, end in zip(out[0], ends, strict=True):
        assert torch.equal(row.view(torch.int32), end[0].view(torch.int32))


def test_rows_of_a_larger_tensor_leave_the_rest_of_it_alone():
    memory = torch.full((3, 2000), 7.0)
    gpu.interpolate(
        [memory[:, 1:1501]], [torch.zeros(1500)], [torch.ones(1500)], [], torch.zeros(2, 3, 2), [None], [True]
    )
    assert not memory[:, 1:1501].any()
    assert (memory[:, 0] == 7).all() and (memory[:, 1501:] == 7).all()


def test_bfloat16_ends():
    # The interpreter truncates to bfloat16 where the hardware rounds, hence the tolerance of a whole unit.
    a, b = torch.randn(2, 1500, generator=torch.Generator().manual_seed(0)).bfloat16()
    out = [torch.zeros(2, 1500, dtype=torch.bfloat16)]
    gpu.interpolate(out, [a], [b], [], torch.tensor([[[0.25, 0], [1, 0]]] * 2), [None], [True])
    torch.testing.assert_close(out[0][0].float(), a.float().lerp(b.float(), 0.25), rtol=2**-7, atol=1e-6)
    assert torch.equal(out[0][1], b)


def test_weights_beyond_two_to_the_31_are_found(monkeypatch):
    a, b, out, mask = far_tensor(), far_tensor(), far_tensor(2 * FAR), far_tensor(dtype=torch.bool)
    a[-2000:], b[-2000:], mask[-2000:] = 1.0, 3.0, True
    mask[-1] = False
    last = (FAR - 1) // gpu.BLOCK
    monkeypatch.setattr(gpu, "blocks_of", lambda *_: torch.tensor([[0, last - 1], [0, last]], dtype=torch.int32))
    gpu.interpolate([out.view(2, FAR)], [a], [b], [], torch.tensor([[[0.5, 0], [1, 0]]] * 2), [mask], [True])
    for row, value in zip(out.view(2, FAR), (2.0, 3.0), strict=True):
        assert (row[-1500:-1] == value).all() and row[-1] == 0
        assert not row[-4000:-3000].any() and not row[:3000].any()
