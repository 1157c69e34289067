"""bfloat16 copies of weights by a masked optimizer's kernel on a CUDA device. `make gpu` runs these."""

import pytest
import torch
from shadow_cases import RULES_WITH_COPIES, check

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("live_state", [False, True])
@pytest.mark.parametrize("mask", ["random", "empty", "full"])
@pytest.mark.parametrize("name", RULES_WITH_COPIES)
def test_every_rule_writes_copies_and_reads_their_gradients(name, mask, live_state):
    check(mask, name, live_state, device="cuda")
