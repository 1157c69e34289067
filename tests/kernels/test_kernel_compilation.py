"""The Triton kernels compiled ahead of time for GPUs that are not here: registers, spills, width of memory accesses."""

import no_buffer
import pytest
from ahead_of_time import AMD, NVIDIA, SM_90, assert_no_spills, compiled, predicated_16_byte, target_name, triton

from sparselt.kernels import masked_adam, masked_rmsprop
from sparselt.kernels._optimizer import gpu as optimizer_gpu
from sparselt.kernels.augment import gpu as augment_gpu
from sparselt.kernels.interpolate import gpu as interpolate_gpu
from sparselt.kernels.magnitude import gpu as magnitude_gpu
from sparselt.kernels.masked_sgd import operation
from sparselt.kernels.norm_act import gpu as norm_gpu

OLD_TRITON = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 9)
OTHERS = [
    no_buffer.operation,
    masked_adam.operation,
    masked_adam.amsgrad_operation,
    *masked_rmsprop.OPERATIONS.values(),
]
REGISTERS = 64  # a thread: a full SM of 2,048 threads has 32 each, and 64 still keep half of them in flight

MASKED_SGD = {
    "programs": "*i32",
    "pointers": "*i64",
    "table": "*i64",
    "hyperparameters": "*fp32",
    "state": "*fp32",
    "mask": "*u8",
    "blocks": "*i64",
    "steps": "*i32",
    "grad_scale": "*fp32",
    "found_inf": "*fp32",
    "shadow": "*bf16",
    "parameters": "i32",
    "stride": "i32",
    "rewrite": "i32",
}
OPTIONAL = ("blocks", "steps", "grad_scale", "found_inf")
SHADOW = ("steps", "shadow")  # as in a bfloat16 training


def masked_sgd(target, *, bfloat16=False, first_step=False, aligned=True, given=("steps",), optimizer=operation):
    """given: the optional arguments; an optimizer always gives `steps`."""
    constants = {"FIRST_STEP": first_step, "ALIGNED": aligned, "BFLOAT16": bfloat16}
    constants |= optimizer_gpu.constants(optimizer)
    constants.update({name: None for name in (*OPTIONAL, "shadow") if name not in given})
    warps = optimizer_gpu.warps(optimizer, "blocks" in given)
    options = {"multiples_of_16": ["stride"], "num_warps": warps, "enable_fp_fusion": False}
    return compiled(optimizer_gpu.masked_kernel, MASKED_SGD, constants, target, **options)


@pytest.mark.parametrize("target", [*NVIDIA, AMD], ids=target_name)
@pytest.mark.parametrize(
    ("given", "bfloat16"),
    [((), False), (("steps",), True), (OPTIONAL[1:], False), (OPTIONAL, False), (OPTIONAL, True), (SHADOW, False)],
    ids=["bare", "bfloat16", "scaler", "live", "live bfloat16", "shadow"],
)
def test_masked_sgd_spills_nothing(given, target, bfloat16, tmp_path):
    assert_no_spills(masked_sgd(target, bfloat16=bfloat16, given=given), tmp_path, REGISTERS)


@pytest.mark.parametrize("given", [(), OPTIONAL[1:], OPTIONAL], ids=["bare", "scaler", "live"])
def test_masked_sgd_moves_16_bytes_at_a_time_under_a_predicate_on_sm_90(given):
    ptx = masked_sgd(SM_90, given=given).asm["ptx"]
    # 1,024 weights over 128 threads: two accesses a thread to each of weight, gradient and momentum in a full block.
    # Live momentum has 256 threads and three branches, two of them with wide accesses to weight and gradient.
    assert predicated_16_byte(ptx, "ld") >= (5 if "blocks" in given else 6)
    assert predicated_16_byte(ptx, "st") >= (3 if "blocks" in given else 4)


def test_copies_are_rounded_to_nearest_and_moved_16_bytes_at_a_time_on_sm_90():
    plain, ptx = (masked_sgd(SM_90, given=given).asm["ptx"] for given in (("steps",), SHADOW))
    assert "cvt.rn.bf16x2.f32" in ptx and "cvt.rz" not in ptx and "bf16" not in plain
    # A block with a copy moves weight and momentum as wide, and 1,024 numbers of 2 bytes by 128 threads in one access.
    of_float32 = predicated_16_byte(plain, "ld"), predicated_16_byte(plain, "st")
    assert predicated_16_byte(ptx, "ld") >= 2 * of_float32[0] - 1 and predicated_16_byte(ptx, "st") > 2 * of_float32[1]


def test_an_unaligned_parameter_gets_no_wide_access_to_it():
    ptx = masked_sgd(SM_90, aligned=False).asm["ptx"]
    # Two branches (full and ragged blocks) with two accesses each to the momentum arena, which is always aligned.
    assert predicated_16_byte(ptx, "ld") == predicated_16_byte(ptx, "st") == 4


def test_live_momentum_of_a_block_that_lives_whole_is_moved_16_bytes_at_a_time():
    ptx = masked_sgd(SM_90, aligned=False, given=OPTIONAL).asm["ptx"]
    assert predicated_16_byte(ptx, "ld") == predicated_16_byte(ptx, "st") == 1


@pytest.mark.parametrize("given", [OPTIONAL[1:], OPTIONAL, SHADOW, (*OPTIONAL, "shadow")], ids=str)
@pytest.mark.parametrize("target", [*NVIDIA, AMD], ids=target_name)
@pytest.mark.parametrize("optimizer", OTHERS, ids=lambda optimizer: optimizer.name)
def test_rules_with_other_numbers_of_buffers_spill_nothing(optimizer, target, given, tmp_path):
    # Each weight of live state has its own address for each buffer. 104 registers keep 16 warps on an SM.
    registers = 104 if "blocks" in given else 72
    if OLD_TRITON and "shadow" in given and optimizer.name == "masked_rmsprop":
        registers = 96  # an SM holds five of these programs, as many as with twice the warps and 48 registers
    if OLD_TRITON and "shadow" in given and (optimizer.name, target) == ("masked_rmsprop_centered", NVIDIA[0]):
        pytest.skip("Triton 3.6 puts 8 bytes of this kernel on the stack: slower there, not wrong")
    assert_no_spills(masked_sgd(target, given=given, optimizer=optimizer), tmp_path, registers)


@pytest.mark.parametrize("optimizer", OTHERS[1:3], ids=lambda optimizer: optimizer.name)
def test_every_buffer_is_moved_16_bytes_at_a_time(optimizer):
    ptx = masked_sgd(SM_90, given=OPTIONAL[1:], optimizer=optimizer).asm["ptx"]
    # 1,024 weights over 256 threads: one access a thread. Full blocks also move weight and gradient so.
    assert predicated_16_byte(ptx, "ld") >= 2 + 2 * optimizer.buffers
    assert predicated_16_byte(ptx, "st") >= 1 + 2 * optimizer.buffers


def augment(target, *, channels_last=True, bfloat16=False, tensors=False):
    """Images of 32 by 32 pixels; seed and epoch as numbers or as tensors."""
    constants = {"FLIP_HALF": True, "CHANNELS_LAST": channels_last, "CROP_STREAM": 0, "FLIP_STREAM": 1}
    constants.update(BLOCK=augment_gpu.BLOCK, **({} if tensors else {"seed_data": None, "epoch_data": None}))
    signature = {"images": "*u8", "indices": "*i64", "normalization": "*fp32", "out": "*bf16" if bfloat16 else "*fp32"}
    signature |= {"seed": "i64", "epoch": "i32", "seed_data": "*i64", "epoch_data": "*i64"}
    signature |= dict.fromkeys(["stride_n", "stride_c", "stride_y", "stride_x"], "i32")
    signature |= dict.fromkeys(["padding", "channels", "height", "width"], "i32")
    return compiled(augment_gpu.augment_kernel, signature, constants, target, multiples_of_16=["height", "width"])


@pytest.mark.parametrize("target", [*NVIDIA, AMD], ids=target_name)
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("bfloat16", "tensors"), [(False, False), (True, True)], ids=["float32", "bfloat16"])
def test_augment_spills_nothing_and_writes_16_bytes_at_a_time(target, channels_last, bfloat16, tensors, tmp_path):
    kernel = augment(target, channels_last=channels_last, bfloat16=bfloat16, tensors=tensors)
    # 64 registers a thread keep half of an SM's 2,048 threads in flight.
    assert_no_spills(kernel, tmp_path, registers=64)
    if target != AMD:
        # 1,024 values over 128 threads: 32 bytes a thread of float32, 16 of bfloat16.
        assert predicated_16_byte(kernel.asm["ptx"], "st") == (1 if bfloat16 else 2)


def interpolate(target, *, plane, bfloat16=False):
    constants = {"PLANE": plane, "MASKED": True, "ALIGNED": True, "BFLOAT16": bfloat16}
    signature = {"blocks": "*i32", "table": "*i64", "coefficients": "*fp32", "points": "i32", "chunks": "i32"}
    constants.update(POINTS=interpolate_gpu.POINTS, BLOCK=interpolate_gpu.BLOCK)
    return compiled(interpolate_gpu.interpolate_kernel, signature, constants, target)


@pytest.mark.parametrize("target", [*NVIDIA, AMD], ids=target_name)
@pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("plane", [False, True], ids=["path", "plane"])
def test_interpolate_spills_nothing_and_moves_16_bytes_at_a_time(target, plane, bfloat16, tmp_path):
    kernel = interpolate(target, plane=plane, bfloat16=bfloat16)
    # 80 registers a thread: eight weights of three ends and of a row take 32; 80 keep 24 warps on an SM.
    assert_no_spills(kernel, tmp_path, registers=80)
    if target != AMD:
        # 1,024 weights over 128 threads: 32 bytes a thread of float32, 16 of bfloat16.
        accesses = 1 if bfloat16 else 2
        assert kernel.asm["ptx"].count("ld.global.v4") == accesses * (3 if plane else 2)
        assert kernel.asm["ptx"].count("st.global.v4") == accesses


def magnitude(name, target, *, bfloat16=False, layerwise=False):
    constants = {
        "LAYERWISE": layerwise,
        "ALIGNED": True,
        "MASKED": True,
        "BFLOAT16": bfloat16,
        "BLOCK": magnitude_gpu.KEEP_BLOCK,
    }
    constants = {
        "count_kernel": {**constants, "SHIFT": 15, "WIDTH": 8, "FIRST": False, "BLOCK": magnitude_gpu.BLOCK},
        "select_kernel": {"WIDTH": 8},
        "ties_kernel": constants,
        "keep_kernel": {**constants, "EXACT": True},
    }[name]
    signature = dict.fromkeys(["table", "prefix", "counters", "left", "ties", "before", "found"], "*i64")
    signature |= {"blocks": "*i32", "threshold": "*fp32"}
    kernel = getattr(magnitude_gpu, name)
    signature = {argument: kind for argument, kind in signature.items() if argument in kernel.arg_names}
    return compiled(kernel, signature, constants, target)


@pytest.mark.parametrize("target", [*NVIDIA, AMD], ids=target_name)
@pytest.mark.parametrize("name", ["count_kernel", "select_kernel", "ties_kernel", "keep_kernel"])
@pytest.mark.parametrize("variant", [{}, {"bfloat16": True, "layerwise": True}], ids=["float32", "bfloat16"])
def test_magnitude_threshold_spills_nothing(name, target, variant, tmp_path):
    if OLD_TRITON and (name, target_name(target)) == ("keep_kernel", "sm_100") and variant:
        pytest.skip("Triton 3.6 puts 8 bytes of this kernel on the stack: slower there, not wrong")
    # 80 registers a thread, of which 32 hold keys, keep 24 warps on an SM. Triton 3.6 takes up to 168.
    assert_no_spills(magnitude(name, target, **variant), tmp_path, registers=168 if OLD_TRITON else 80)


@pytest.mark.parametrize(("bfloat16", "accesses"), [(False, 8), (True, 4)])
def test_magnitude_threshold_reads_full_blocks_16_bytes_at_a_time(bfloat16, accesses):
    # 4,096 weights over 128 threads: 128 bytes a thread of float32, 64 of bfloat16.
    assert magnitude("count_kernel", SM_90, bfloat16=bfloat16).asm["ptx"].count("ld.global.v4") >= accesses


NORM_POINTERS = ("mean", "inverse", "weight", "bias", "parts", "by_weight", "by_bias", "running_mean", "running_var")
UNSETTLED = ("parts", "running_mean", "running_var")
NORM_KERNELS = {  # the kernel, and the arguments that are None
    "sums forward": (norm_gpu.sum_kernel, ("d", "mean", "inverse", "weight", "bias", "out", "masked")),
    "sums backward": (norm_gpu.sum_kernel, ("out", "masked")),
    "sums backward, with addition": (norm_gpu.sum_kernel, ("weight", "bias")),
    "output": (norm_gpu.apply_kernel, ("residual", *UNSETTLED)),
    "output, with addition": (norm_gpu.apply_kernel, UNSETTLED),
    "output and statistics": (norm_gpu.apply_kernel, ("residual",)),
    "output and statistics, with addition": (norm_gpu.apply_kernel, ()),
    "gradient": (norm_gpu.apply_back_kernel, ("parts",)),
    "gradient, with addition": (norm_gpu.apply_back_kernel, ("bias", "parts")),
    "all gradients": (norm_gpu.apply_back_kernel, ()),
    "all gradients, with addition": (norm_gpu.apply_back_kernel, ("bias",)),
    "statistics": (norm_gpu.settle_kernel, ()),
    "gradients of weights": (norm_gpu.settle_kernel, ("x", "running_var")),
}


def norm_act(target, name: str, dtype: str, channels: int):
    kernel, absent = NORM_KERNELS[name]
    signature = dict.fromkeys(("x", "d", "out", "masked", "residual"), dtype)
    signature |= dict.fromkeys((*NORM_POINTERS, "first_out", "second_out"), "*fp32")
    signature |= {"pixels": "i32", "channels": "i32", "momentum": "fp64", "eps": "fp64"}
    constants: dict = {"DOWN": norm_gpu.NUMBERS // channels, "ACROSS": channels, "STEPS": 4, "RELU": True}
    constants["STRETCHES"] = 256
    if kernel is norm_gpu.settle_kernel:
        constants = {"STRETCHES": 1000, "DOWN": 1024, "ACROSS": 8}
    constants |= dict.fromkeys(absent)
    known = kernel.arg_names
    signature, constants = ({n: v for n, v in given.items() if n in known} for given in (signature, constants))
    return compiled(kernel, signature, constants, target, multiples_of_16=["channels"])


@pytest.mark.parametrize("target", [*NVIDIA, AMD], ids=target_name)
@pytest.mark.parametrize("dtype", ["*fp32", "*bf16"])
@pytest.mark.parametrize("name", NORM_KERNELS)
def test_norm_act_spills_nothing(name, dtype, target, tmp_path):
    # 128 threads of 128 registers: four programs on an SM.
    assert_no_spills(norm_act(target, name, dtype, 16), tmp_path, registers=128)


@pytest.mark.parametrize("channels", [16, 64])
def test_norm_act_moves_16_bytes_at_a_time(channels):
    # 2,048 numbers over 128 threads: 32 bytes a thread of bfloat16, 64 of float32.
    for dtype, accesses in (("*bf16", 2), ("*fp32", 4)):
        for name in ("output, with addition", "gradient, with addition", "output and statistics", "all gradients"):
            assert predicated_16_byte(norm_act(SM_90, name, dtype, channels).asm["ptx"], "st") == accesses
