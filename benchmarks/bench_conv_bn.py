"""conv_bn of K networks against batch norm, ReLU and cuDNN's convolution of each network on a stream of its own.

The layers of ResNet-20 at batch 128, bfloat16, forward and backward pass, as replayed CUDA graphs. It has not run on a
GPU yet. On a CPU conv_bn is torch's own convolution: there a quick run rehearses the suite with tiny batches.
"""

import pytest
import torch

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor
from sparselt.kernels.conv_bn import CIFAR_RESNET_20, Comparison, Layer, conv_bn

HERE = conditions()
REHEARSED = not HERE.on_gpu
BATCH = 2 if REHEARSED else HERE.scaled(128)
LAYERS = [layer.with_batch(BATCH) for layer in CIFAR_RESNET_20]


def name_of(layer: Layer) -> str:
    return f"{layer.channels_in} to {layer.channels_out} channels, {layer.side}×{layer.side}, {layer.height} px"


@pytest.mark.skipif(REHEARSED and not HERE.quick, reason="conv_bn on a CPU is torch's own convolution")
@pytest.mark.parametrize("networks", [1, 2] if REHEARSED else [1, 8])
@pytest.mark.parametrize("layer", LAYERS[:2] if HERE.quick else LAYERS, ids=name_of)
def test_layer(layer, networks, compare):
    dtype = torch.float32 if REHEARSED else torch.bfloat16
    comparison = Comparison(conv_bn, layer, networks, dtype, torch.device(HERE.device))
    case = Case(
        "conv_bn",
        name_of(layer),
        size=networks * BATCH,
        K=networks,
        dtype=str(dtype).removeprefix("torch."),
        unit="images",
        sweep="K",
    )
    passes = layer.forward_bytes, layer.weight_gradient_bytes, layer.input_gradient_bytes
    moved = networks * sum(count(dtype.itemsize) for count in passes)
    rival = Competitor("batch norm, ReLU, cuDNN" if HERE.on_gpu else "torch", comparison.library)
    compare(case, Competitor("conv_bn", comparison.ours), [rival], moved=moved, clock="graph")
