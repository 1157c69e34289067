"""conv_bn's Triton kernels in Triton's interpreter, on CPU tensors, against the reference."""

import pytest
import torch
from conv_cases import SHAPES, TOLERANCE, Case
from norm_cases import assert_close

from sparselt.kernels.conv_bn import gpu

DTYPES = [torch.float32, torch.bfloat16]


def everything(case: Case) -> dict[str, torch.Tensor]:
    """The results of all three operators."""
    out, mean, var = gpu.conv_bn(*case.arguments)
    back = case.gradient, out, *case.through_statistics(out, mean), *case.arguments
    by_input, sums = gpu.conv_bn_by_input(*back)
    found = {"out": out, "mean": mean, "var": var, "by_weight": gpu.conv_bn_by_weight(*back), "by_input": by_input}
    return found | {"by_shift": sums[:, 0], "by_scale": sums[:, 1]}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalized", [False, True], ids=["", "normalized"])
@pytest.mark.parametrize("name", SHAPES)
def test_the_kernels_agree_with_the_reference(name, normalized, dtype):
    case = Case(SHAPES[name], dtype, normalized=normalized)
    found = everything(case)
    # The interpreter truncates to bfloat16 where the hardware rounds.
    assert_close(found, case.answers(found["out"]), TOLERANCE[dtype] * (2 if dtype == torch.bfloat16 else 1))
