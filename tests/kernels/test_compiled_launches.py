"""Compiles the launches of the Triton kernels as a GPU would, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="no Triton on this platform")


def test_every_kernel_compiles_with_the_constants_of_its_launches():
    script = Path(__file__).with_name("compiled_launches.py")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {"augment_kernel", "masked_kernel", "interpolate_kernel"} <= set(done.stdout.split())
