"""norm_act's Triton kernels in Triton's interpreter, on CPU tensors, against the reference."""

import pytest
import torch
from norm_cases import TOLERANCE, Case

from sparselt.kernels.norm_act import gpu


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("settled_in", ["its own launch", "the last launch"])
@pytest.mark.parametrize("shape", [(3, 5, 3, 7), (2, 96, 5, 5), (9, 16, 32, 32)], ids=str)
def test_the_kernels_agree_with_the_reference(shape, settled_in, relu, residual, dtype, monkeypatch):
    monkeypatch.setattr(gpu, "_READ", {"its own launch": 0, "the last launch": 1000}[settled_in])
    case = Case(shape, dtype, residual=residual, relu=relu)
    case.check(gpu.norm_act, gpu.norm_act_backward, TOLERANCE[dtype] * (2 if dtype == torch.bfloat16 else 1))
