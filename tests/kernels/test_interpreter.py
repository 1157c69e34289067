"""Runs the checks of the Triton kernels in a process of their own, where no GPU is needed."""

import os
import subprocess
import sys
from pathlib import Path


def test_triton_kernels_pass_their_checks_in_the_interpreter():
    # Triton reads TRITON_INTERPRET when a kernel is decorated, so it cannot be set in a process that has imported one.
    checks = sorted(Path(__file__).parent.glob("interpreted_*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([*command, *checks], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
