"""`sparselt doctor`: what is installed on this machine and what it can do."""

import importlib.util
import os
from pathlib import Path

from sparselt.runs.store import versions


def doctor() -> None:
    """Prints versions, cores, CUDA devices and what is missing."""
    found = versions()
    for name, version in found.items():
        print(f"{name:12} {version}")
    print(f"{'cores':12} {len(os.sched_getaffinity(0))} usable")
    bfloat16 = {True: "yes", False: "no: --set precision=float32 is faster on this CPU", None: "unknown"}
    print(f"{'bfloat16':12} {bfloat16[cpu_has_bfloat16()]}")
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            print(f"{'cuda':12} {torch.cuda.get_device_name(index)}")
    else:
        print(f"{'cuda':12} no device; everything runs on the CPU, the Triton kernels only in their interpreter")
    if importlib.util.find_spec("ffcv") is None:
        print(f"{'ffcv':12} missing: betons are read by Pillow, the same but slower; pip install 'sparselt[ffcv]'")


def cpu_has_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool | None:
    """Whether this CPU multiplies bfloat16 by instructions of its own (AVX512_BF16, AMX_BF16, Arm's BF16).

    Where it does not, torch's autocast is emulated and slower than float32. None: the system does not say.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return None
    flags = {flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()}
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"}) if flags else None
