"""norm_act's Triton kernels in Triton's interpreter, on CPU tensors, against the reference."""

import pytest
import torch
from norm_cases import TOLERANCE, Case

from sparselt.kernels.norm_act import gpu

BOTH = [(True, False), (True, True), (False, False), (False, True)]


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize(
    ("shape", "merged", "relu", "residual"),
    [
        *(((3, 5, 3, 7), True, *both) for both in BOTH),
        *(((2, 96, 5, 5), merged, *both) for both in BOTH for merged in (False, True)),
        ((9, 16, 32, 32), False, True, True),
        ((9, 16, 32, 32), False, False, False),
        ((5, 64, 32, 32), True, True, True),
    ],
    ids=str,
)
def test_the_kernels_agree_with_the_reference(shape, merged, relu, residual, dtype, monkeypatch):
    """merged: the last launch settles the sums; of the last shape there are more than it reads at once."""
    monkeypatch.setattr(gpu, "_READ", 1000 if merged else 0)
    assert gpu._Shape(torch.empty(shape)).merged == merged
    case = Case(shape, dtype, residual=residual, relu=relu)
    case.check(gpu.norm_act, gpu.norm_act_backward, TOLERANCE[dtype] * (2 if dtype == torch.bfloat16 else 1))
