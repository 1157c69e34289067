"""conv_bn's Triton kernels compiled ahead of time: matrix instructions, registers, memory; and the card's table."""

import re
from functools import lru_cache
from pathlib import Path

import pytest
from ahead_of_time import AMD, NVIDIA, SM_90, assert_no_spills, compiled, target_name

from sparselt.kernels.conv_bn import gpu, gpu_input, gpu_tiles, gpu_weight
from sparselt.kernels.conv_bn.layer import CIFAR_RESNET_20, Layer

KERNELS = {
    "forward": (gpu.forward_kernel, gpu.forward_constants),
    "gradient of the weight": (gpu_weight.weight_kernel, gpu_weight.weight_constants),
    "gradient of the input": (gpu_input.input_kernel, gpu_input.input_constants),
}
MOST = {  # registers of a thread, and bytes of shared memory: the card says these
    "forward": (144, 50_176),
    "gradient of the weight": (128, 34_832),
    "gradient of the input": (160, 66_560),
}
OTHER_TARGETS = [target for target in (*NVIDIA, AMD) if target is not SM_90]
BARE = ("scale", "shift", "slope", "offset")
LAYERS = list(CIFAR_RESNET_20)


def layer_name(layer: Layer) -> str:
    return f"{layer.channels_in} to {layer.channels_out}, {layer.side}×{layer.side}, stride {layer.stride}"


@lru_cache
def conv_bn(name: str, layer: Layer, target, dtype: str = "*bf16", absent: tuple[str, ...] = ()):
    kernel, constants_of = KERNELS[name]
    signature = dict.fromkeys(("x", "weight", "out", "gradient", "by_input"), dtype)
    signature |= dict.fromkeys(("scale", "shift", "slope", "offset", "parts"), "*fp32")
    signature |= {"x_stride": "i32", "weight_stride": "i32"}
    signature = {argument: kind for argument, kind in signature.items() if argument in kernel.arg_names}
    constants = constants_of(layer) | {argument: None for argument in absent if argument in kernel.arg_names}
    strides = [argument for argument in signature if argument.endswith("stride")]
    return compiled(kernel, signature, constants, target, multiples_of_16=strides)


@pytest.mark.parametrize("layer", LAYERS, ids=layer_name)
@pytest.mark.parametrize("name", KERNELS)
def test_every_layer_of_resnet_20_spills_nothing_and_multiplies_on_wgmma(name, layer, tmp_path):
    kernel = conv_bn(name, layer, SM_90)
    registers, shared = MOST[name]
    assert_no_spills(kernel, tmp_path, registers)
    assert kernel.metadata.shared <= shared
    assert "wgmma.mma_async" in kernel.asm["ptx"]


@pytest.mark.parametrize("target", OTHER_TARGETS, ids=target_name)
@pytest.mark.parametrize("layer", [LAYERS[2], LAYERS[5]], ids=layer_name)
@pytest.mark.parametrize("name", KERNELS)
def test_other_targets_spill_nothing_and_use_their_matrix_instructions(name, layer, target, tmp_path):
    kernel = conv_bn(name, layer, target)
    assert_no_spills(kernel, tmp_path, 168)  # of 128 threads: three programs on an SM
    instruction = {"sm_80": "mma.sync", "sm_100": "tcgen05.mma", "gfx942": "v_mfma"}[target_name(target)]
    assert instruction in kernel.asm["amdgcn" if target is AMD else "ptx"]


@pytest.mark.parametrize("name", KERNELS)
def test_without_normalization_and_in_float32_nothing_is_spilled_either(name, tmp_path):
    layer = LAYERS[1]
    absent = (*BARE, "parts") if name == "gradient of the input" else BARE
    assert_no_spills(conv_bn(name, layer, SM_90, absent=absent), tmp_path, MOST[name][0])
    kernel = conv_bn(name, layer, SM_90, dtype="*fp32")
    assert_no_spills(kernel, tmp_path, 255)
    assert "tf32" not in kernel.asm["ptx"]


@pytest.mark.parametrize("layer", LAYERS[1:], ids=layer_name)
@pytest.mark.parametrize("name", KERNELS)
def test_images_are_moved_16_bytes_at_a_time(name, layer):
    # The 3 channels of the first layer lie 6 bytes apart. Smaller reads are of float32 numbers, a channel each.
    ptx = conv_bn(name, layer, SM_90).asm["ptx"]
    constants = KERNELS[name][1](layer)
    tile = constants["ROWS"] * constants["COLUMNS"] * 2 // 128 // 16  # accesses of a thread to a tile of images
    wide = len(re.findall(r"cp\.async\.cg\.shared\.global|ld\.global\S*\.v4\.b32", ptx))
    assert wide >= tile
    assert not re.search(r"ld\.global\S*\.(b16|u16)", ptx)
    assert re.search(r"st\.global\S*\.v4\.b32", ptx)


@pytest.mark.parametrize("target", [*NVIDIA, AMD], ids=target_name)
def test_sums_of_tiles_spill_nothing(target, tmp_path):
    sizes = {"PIXELS": 131_072, "TILES": 2048, "CHANNELS": 16, "ROWS": 64, "DOWN": 512, "ACROSS": 16}
    pointers = dict.fromkeys(("parts", "mean", "var"), "*fp32")
    assert_no_spills(compiled(gpu.statistics_kernel, pointers, sizes, target), tmp_path, 168)
    sizes = {"COUNT": 128, "NUMBERS": 2304, "DOWN": 128, "ACROSS": 32}
    signature = {"parts": "*fp32", "out": "*bf16"}
    assert_no_spills(compiled(gpu_tiles.add_kernel, signature, sizes, target), tmp_path, 128)


def row_of_card(layer: Layer, count: int) -> str:
    """Operations and bytes of a layer, and what the tiles add: partial sums, and products with padding and zeros."""
    forward, by_weight, by_input = (constants_of(layer) for _, constants_of in KERNELS.values())
    floors = floors_of(layer)
    stretches = -(-layer.pixels_out // (by_weight["ROWS"] * by_weight["STEPS"]))
    parts = [  # numbers: of tiles, of stretches, of tiles
        2 * -(-layer.pixels_out // forward["ROWS"]) * layer.channels_out,
        stretches * layer.columns * layer.channels_out,
        2 * -(-layer.pixels_in // by_input["ROWS"]) * layer.channels_in,
    ]
    reached = layer.side**2 * layer.channels_out
    done = [
        padded(layer.pixels_out, forward["ROWS"])
        * padded(layer.columns, forward["COLUMNS"])
        * padded(layer.channels_out, forward["OUTS"]),
        stretches
        * (by_weight["ROWS"] * by_weight["STEPS"])
        * padded(layer.columns, by_weight["COLUMNS"])
        * padded(layer.channels_out, by_weight["OUTS"]),
        padded(layer.pixels_in, by_input["ROWS"])
        * padded(reached, by_input["COLUMNS"])
        * padded(layer.channels_in, by_input["INS"]),
    ]
    needed = layer.operations / 2
    shape = f"{layer.channels_in} → {layer.channels_out}, {layer.side}×{layer.side}, {layer.height} px"
    cells = (
        shape + ", stride 2" * (layer.stride == 2),
        str(count),
        f"{layer.operations / 1e9:.3f}",
        " · ".join(f"{floor / 1e6:.1f}" for floor in floors),
        " · ".join(f"{layer.operations / floor:.0f}" for floor in floors),
        " · ".join(f"{2 * 4 * numbers / 1e6:.2f}" for numbers in parts),  # float32, written and read
        " · ".join(f"{products / needed:.2f}" for products in done),
    )
    return f"| {' | '.join(cells)} |"


def floors_of(layer: Layer) -> list[int]:
    return [layer.forward_bytes(), layer.weight_gradient_bytes(), layer.input_gradient_bytes()]


def padded(size: int, block: int) -> int:
    return -(-size // block) * block


def test_the_card_says_what_is_counted():
    card = (Path(__file__).parents[2] / "docs/kernels.md").read_text()
    for layer, count in CIFAR_RESNET_20.items():
        assert row_of_card(layer, count) in card
    first = LAYERS[0]
    step = sum(count * (sum(floors_of(layer))) for layer, count in CIFAR_RESNET_20.items())
    image = (step - first.input_gradient_bytes()) / first.batch
    work = sum(count * layer.operations for layer, count in CIFAR_RESNET_20.items())
    assert f"moves {image / 1e6:.1f} MB an image" in card and f"multiplies {work / 1e9:.1f} GFLOP a pass" in card
    for registers, shared in MOST.values():
        assert f"| {registers} | {shared:,} |" in card
