"""Triton kernels compiled for GPUs that are not here, and what the compilers say of them."""

import re
import subprocess

import pytest

triton = pytest.importorskip("triton", reason="no Triton on this platform")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

NVIDIA = [GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32), GPUTarget("cuda", 100, 32)]
AMD = GPUTarget("hip", "gfx942", 64)
SM_90 = NVIDIA[1]


def target_name(target: GPUTarget) -> str:
    return f"sm_{target.arch}" if target.backend == "cuda" else target.arch


def compiled(kernel, signature, constants, target, multiples_of_16=(), **options):
    """The kernel with pointers aligned to 16 bytes. multiples_of_16: numbers among its arguments that are."""
    names = kernel.arg_names
    divisible = [*(name for name, kind in signature.items() if kind[0] == "*"), *multiples_of_16]
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in divisible if name not in constants},
    )
    return triton.compile(source, target=target, options={"num_warps": 4, "enable_fp_fusion": True, **options})


def assert_no_spills(kernel, folder, registers: int) -> None:
    """No stack, nothing in local memory, and on NVIDIA's no more than so many registers a thread."""
    if "amdgcn" in kernel.asm:
        for counter in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
            assert re.search(rf"\.{counter}:\s*(\d+)", kernel.asm["amdgcn"]).group(1) == "0", counter
        return
    used = resources(kernel, folder)
    assert used["STACK"] == used["LOCAL"] == 0
    assert used["REG"] <= registers


def resources(kernel, folder) -> dict[str, int]:
    """REG, STACK, LOCAL and more, from the disassembler that comes with Triton."""
    (folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    report = subprocess.run([tool, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report.stdout)}


def predicated_16_byte(ptx: str, kind: str) -> int:
    return len(re.findall(rf"@%p\d+\s+{kind}\.global\S*\.v4\.[bf]32", ptx))
