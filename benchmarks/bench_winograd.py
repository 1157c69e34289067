"""winograd_conv2d against torch's convolution (oneDNN), and training steps of residual networks with and without it.

On one thread of a CPU, CPU time, channels last. Forward pass, gradient of the input and gradient of the weights
are timed apart. A step is forward and backward pass of a batch and `MaskedSGD`.
"""

import pytest
import torch
from torch.nn import functional as F

from sparselt import MaskedSGD, winograd_
from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case
from sparselt.benchmarks.sparse import has_fast_bfloat16, interleaved
from sparselt.kernels.winograd import winograd_conv2d
from sparselt.models import build_model
from sparselt.training.fused_norm import fused_forward

HERE = conditions()
winograd_conv2d_input = torch.ops.sparselt.winograd_conv2d_input
winograd_conv2d_weight = torch.ops.sparselt.winograd_conv2d_weight
SHAPES = {  # images, channels, side
    "16 channels, 32 px, batch 128": (128, 16, 32),
    "32 channels, 16 px, batch 128": (128, 32, 16),
    "64 channels, 8 px, batch 128": (128, 64, 8),
    "64 channels, 56 px, batch 32": (32, 64, 56),
    "128 channels, 28 px, batch 32": (32, 128, 28),
    "256 channels, 14 px, batch 32": (32, 256, 14),
    "16 channels, 8 px, batch 64": (64, 16, 8),
}
STEPS = {"ResNet-20, batch 128": ("resnet20", 128), "ResNet-18, batch 32": ("resnet18", 32)}

pytestmark = pytest.mark.skipif(HERE.on_gpu, reason="winograd_conv2d runs on a CPU only")


def _skip_slow(dtype: str) -> None:
    if dtype == "bfloat16" and not has_fast_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("which", ["forward", "gradient of the input", "gradient of the weights"])
@pytest.mark.parametrize("shape", list(SHAPES)[: 2 if HERE.quick else None])
def test_convolution(shape, which, dtype, compare):
    _skip_slow(dtype)
    images, channels, side = SHAPES[shape]
    size = max(2, HERE.scaled(images)), channels, side, side
    of = getattr(torch, dtype)
    x, d = (torch.randn(size).to(of).contiguous(memory_format=torch.channels_last) for _ in range(2))
    weight = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    theirs_weight = weight.to(of)

    def theirs(*wanted: bool):
        return torch.ops.aten.convolution_backward(
            d, x, theirs_weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [*wanted, False]
        )

    ours, torchs = {
        "forward": (lambda: winograd_conv2d(x, weight), lambda: torch.conv2d(x, theirs_weight, padding=1)),
        "gradient of the input": (lambda: winograd_conv2d_input(d, weight), lambda: theirs(True, False)),
        "gradient of the weights": (lambda: winograd_conv2d_weight(x, d), lambda: theirs(False, True)),
    }[which]
    case = Case("winograd", f"{shape}, {dtype}, {which}", size=x.numel(), dtype=dtype, unit="numbers")
    seconds = interleaved({"winograd_conv2d": ours, "torch": torchs}, 5 if HERE.quick else 15)
    compare.times(case, seconds, moved=2 * x.nbytes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fused", [False, True], ids=["", "fused norms"])
@pytest.mark.parametrize("network", list(STEPS)[: 1 if HERE.quick else None])
def test_step(network, fused, dtype, compare):
    _skip_slow(dtype)
    name, count = STEPS[network]
    batch = max(2, HERE.scaled(count))
    images = torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))

    def stepping(winograd: bool):
        model = build_model(name, classes=10, channels=3, seed=0).train()
        if winograd:
            winograd_(model)
        forward = fused_forward(model) if fused else model
        optimizer = MaskedSGD(model.named_parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                outputs = forward(images)
            F.cross_entropy(outputs.float(), labels).backward()
            optimizer.step()

        return step

    calls = {"with winograd_": stepping(True), "without": stepping(False)}
    case = Case(
        "winograd",
        f"{network}, step{', fused norms' if fused else ''}, {dtype}",
        size=batch,
        dtype=dtype,
        unit="images",
    )
    compare.times(case, interleaved(calls, 3 if HERE.quick else 9))
