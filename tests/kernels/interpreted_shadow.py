"""bfloat16 copies of weights by the Triton kernel of masked optimizers, in Triton's interpreter."""

import pytest
from shadow_cases import RULES_WITH_COPIES, check

from sparselt.kernels._optimizer import gpu


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("name", RULES_WITH_COPIES)
def test_every_rule_writes_copies_and_reads_their_gradients(name, live_state):
    check("random", name, live_state, gpu.step)


@pytest.mark.parametrize("mask", ["few", "empty", "one weight", "full"])
def test_copies_under_other_masks(mask):
    check(mask, "sgd", False, gpu.step)
