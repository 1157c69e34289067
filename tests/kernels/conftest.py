"""What the tests of several kernels share."""

import pytest
import torch


@pytest.fixture(scope="module")
def poisoned_outputs():
    """Under deterministic algorithms torch fills new memory with NaN, True and the largest integers."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
