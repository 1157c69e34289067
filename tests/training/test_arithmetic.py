"""The arithmetic of worker processes."""

import subprocess
import sys

PRINTED = """
import torch
from sparselt.training.cpu import set_arithmetic
set_arithmetic()
print(torch.backends.cudnn.allow_tf32, float(torch.tensor(1e-30) * 1e-10))
from sparselt.training.captured import pinned_algorithms
torch.backends.cudnn.allow_tf32 = True
with pinned_algorithms():
    print(torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic)
print(torch.backends.cudnn.allow_tf32)
"""


def test_float32_is_float32_and_denormals_are_zero():
    run = subprocess.run([sys.executable, "-c", PRINTED], capture_output=True, text=True, check=True, timeout=120)
    assert run.stdout.split("\n") == ["False 0.0", "False True", "True", ""]
