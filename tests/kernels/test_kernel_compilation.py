"""The Triton kernels compiled ahead of time for GPUs that are not here: registers, spills, width of memory accesses."""

import re
import subprocess

import pytest

triton = pytest.importorskip("triton", reason="no Triton on this platform")

from sparselt.kernels.augment.gpu import augment_kernel  # noqa: E402
from sparselt.kernels.masked_sgd.gpu import masked_sgd_kernel  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

NVIDIA = [GPUTarget("cuda", 80, 32), GPUTarget("cuda", 90, 32), GPUTarget("cuda", 100, 32)]
AMD = GPUTarget("hip", "gfx942", 64)
REGISTERS = 64  # a thread: a full SM of 2,048 threads has 32 each, and 64 still keep half of them in flight

MASKED_SGD = {
    "blocks": "*i32",
    "pointers": "*i64",
    "table": "*i64",
    "hyperparameters": "*fp32",
    "momentum": "*fp32",
    "mask": "*u8",
    "parameters": "i32",
    "rewrite": "i32",
}
AUGMENT = {
    "images": "*u8",
    "indices": "*i64",
    "normalization": "*fp32",
    "out": "*fp32",
    "seed": "i64",
    **dict.fromkeys(["stride_n", "stride_c", "stride_y", "stride_x"], "i32"),
    **dict.fromkeys(["epoch", "padding", "channels", "height", "width"], "i32"),
}


def compiled(kernel, signature, constants, target):
    names = kernel.arg_names
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n, kind in signature.items() if kind[0] == "*"},
    )
    return triton.compile(source, target=target, options={"num_warps": 4, "enable_fp_fusion": True})


def masked_sgd(target, *, bfloat16=False, first_step=False, aligned=True):
    constants = {"FIRST_STEP": first_step, "ALIGNED": aligned, "BFLOAT16": bfloat16, "BLOCK": 1024}
    return compiled(masked_sgd_kernel, MASKED_SGD, constants, target)


def augment(target, *, channels_last=True):
    constants = {"FLIP_HALF": True, "CHANNELS_LAST": channels_last, "CROP_STREAM": 0, "FLIP_STREAM": 1, "BLOCK": 1024}
    return compiled(augment_kernel, AUGMENT, constants, target)


def resources(kernel, folder) -> dict[str, int]:
    """REG, STACK, LOCAL and more, from the disassembler that comes with Triton."""
    (folder / "kernel.cubin").write_bytes(kernel.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    report = subprocess.run([tool, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True)
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report.stdout)}


@pytest.mark.parametrize("target", NVIDIA, ids=lambda target: f"sm_{target.arch}")
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
def test_masked_sgd_spills_nothing(target, bfloat16, tmp_path):
    used = resources(masked_sgd(target, bfloat16=bfloat16), tmp_path)
    assert used["STACK"] == used["LOCAL"] == 0
    assert used["REG"] <= REGISTERS


@pytest.mark.parametrize("target", NVIDIA, ids=lambda target: f"sm_{target.arch}")
def test_augment_spills_nothing(target, tmp_path):
    used = resources(augment(target), tmp_path)
    assert used["STACK"] == used["LOCAL"] == 0
    assert used["REG"] <= REGISTERS


@pytest.mark.parametrize("kernel", [masked_sgd, augment])
def test_amd_spills_nothing(kernel):
    assembly = kernel(AMD).asm["amdgcn"]
    for counter in ("vgpr_spill_count", "sgpr_spill_count", "private_segment_fixed_size"):
        assert re.search(rf"\.{counter}:\s*(\d+)", assembly).group(1) == "0"


def predicated_16_byte(ptx: str, kind: str) -> int:
    return len(re.findall(rf"@%p\d+\s+{kind}\.global\S*\.v4\.[bf]32", ptx))


def test_masked_sgd_moves_16_bytes_at_a_time_under_a_predicate_on_sm_90():
    ptx = masked_sgd(NVIDIA[1]).asm["ptx"]
    # 1,024 weights over 128 threads: two accesses a thread to each of weight, gradient and momentum in a full block.
    assert predicated_16_byte(ptx, "ld") >= 6
    assert predicated_16_byte(ptx, "st") >= 4


def test_an_unaligned_parameter_gets_no_wide_access_to_it():
    ptx = masked_sgd(NVIDIA[1], aligned=False).asm["ptx"]
    # Two branches (full and ragged blocks) with two accesses each to the momentum arena, which is always aligned.
    assert predicated_16_byte(ptx, "ld") == predicated_16_byte(ptx, "st") == 4
