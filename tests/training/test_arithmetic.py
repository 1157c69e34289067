"""The arithmetic and the memory of worker processes."""

import os
import platform
import subprocess
import sys

import pytest

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


CHOSEN = [
    "",
    "torch.backends.cudnn.allow_tf32 = False",
    "torch.backends.cudnn.benchmark = True",
    "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'tf32'",
    "torch.set_float32_matmul_precision('high')",
    "torch.backends.disable_global_flags()",
]
PINNED = """
import os, sys, torch
from sparselt.training.captured import pinned_algorithms
cudnn = torch.backends.cudnn
def seen():
    return cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision
for chosen in sys.argv[1:]:  # each in its own process, because torch keeps what was chosen
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, chosen
        continue
    exec(chosen)
    before = seen()
    with pinned_algorithms():
        with pinned_algorithms():
            pass
        assert seen() == (False, True, "ieee", "ieee") and not cudnn.allow_tf32, seen()
    assert seen() == before, (before, seen())
    sys.exit()
"""


def test_algorithms_are_pinned_and_given_back_however_precision_was_chosen():
    run = subprocess.run([sys.executable, "-c", PINNED, *CHOSEN], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


FAULTS = """
import resource, sys, torch
from sparselt.training.cpu import keep_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_memory()
def step(number):
    # Larger in every step: by default glibc takes memory for a tensor larger than all before from the system.
    for tensor in [torch.ones((1 << 20) + 1024 * number) for _ in range(8)]:
        tensor += 1
for number in range(3):
    step(number)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(3, 8):
    step(number)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_a_worker_keeps_the_memory_that_it_frees():
    faults = []
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    for argument, more in (("keep", {}), ("give", {}), ("keep", {"MALLOC_MMAP_THRESHOLD_": "131072"})):
        command = [sys.executable, "-c", FAULTS, argument]
        run = subprocess.run(command, env=environment | more, capture_output=True, text=True, check=True, timeout=120)
        faults.append(int(run.stdout))
    kept, given, told_otherwise = faults
    assert kept < 100 and given > 1000 and told_otherwise > 1000
