"""norm_act against torch's batch norm, addition and ReLU, and a whole ResNet-20 step with and without it.

Forward and backward pass together, channels last; the ReLU and the addition of torch are in place. On a CPU one thread,
CPU time. A step is forward and backward pass of 128 images and `MaskedSGD`.
"""

import pytest
import torch
from torch.nn import functional as F

from sparselt import MaskedSGD
from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor
from sparselt.benchmarks.sparse import has_fast_bfloat16, interleaved
from sparselt.kernels.norm_act import norm_act
from sparselt.models import build_model
from sparselt.training.fused_norm import fused_forward

HERE = conditions()
SHAPES = {  # batch, channels, side
    "16 channels, 32 px, batch 128": (128, 16, 32),
    "32 channels, 16 px, batch 128": (128, 32, 16),
    "64 channels, 8 px, batch 128": (128, 64, 8),
    "8 channels, 8 px, batch 64": (64, 8, 8),
    "256 channels, 14 px, batch 32": (32, 256, 14),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Problem:
    """A batch, the parameters of its norm, and one call of each competitor."""

    def __init__(self, shape: str, dtype: torch.dtype, residual: bool):
        batch, channels, side = SHAPES[shape]
        size = max(2, HERE.scaled(batch)), channels, side, side

        def images() -> torch.Tensor:
            return torch.randn(size, device=HERE.device).to(dtype).contiguous(memory_format=torch.channels_last)

        self.x, self.gradient = images().requires_grad_(), images()
        self.residual = images().requires_grad_() if residual else None
        self.weight, self.bias = (torch.rand(channels, device=HERE.device).requires_grad_() for _ in range(2))
        self.mean, self.var = torch.zeros(channels, device=HERE.device), torch.ones(channels, device=HERE.device)
        self.leaves = [t for t in (self.x, self.weight, self.bias, self.residual) if t is not None]
        self.numbers = self.x.numel()
        # Forward 3 and backward 5 numbers for each; with a residual 4 and 7.
        self.moved = (11 if residual else 8) * self.numbers * self.x.itemsize

    def ours(self) -> None:
        out = norm_act(self.x, self.weight, self.bias, self.mean, self.var, residual=self.residual)
        torch.autograd.grad(out, self.leaves, self.gradient)

    def theirs(self) -> None:
        out = F.batch_norm(self.x, self.mean, self.var, self.weight, self.bias, True)
        if self.residual is not None:
            out += self.residual
        torch.autograd.grad(F.relu(out, inplace=True), self.leaves, self.gradient)


@pytest.mark.parametrize("residual", [False, True], ids=["relu", "add, relu"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", list(SHAPES)[: 2 if HERE.quick else None])
def test_norm(shape, dtype, residual, compare):
    problem = Problem(shape, DTYPES[dtype], residual)
    name = f"{shape}, {dtype}{', with addition' if residual else ''}"
    case = Case("norm_act", name, size=problem.numbers, dtype=dtype, unit="numbers")
    if HERE.on_gpu:
        compare(case, Competitor("norm_act", problem.ours), [Competitor("torch", problem.theirs)], moved=problem.moved)
        return
    seconds = interleaved({"norm_act": problem.ours, "torch": problem.theirs}, 5 if HERE.quick else 15)
    compare.times(case, seconds, moved=problem.moved)


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_of_resnet_20(dtype, compare):
    if dtype == "bfloat16" and not HERE.on_gpu and not has_fast_bfloat16():
        pytest.skip("this processor does not multiply bfloat16")
    model = build_model("resnet20", classes=10, channels=3, seed=0).to(HERE.device).train()
    model = model.to(memory_format=torch.channels_last)
    optimizer = MaskedSGD(model.named_parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    batch = max(2, HERE.scaled(128))
    images = torch.randn(batch, 3, 32, 32, device=HERE.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,), device=HERE.device)

    def step(forward) -> None:
        optimizer.zero_grad()
        with torch.autocast(HERE.device, torch.bfloat16, enabled=dtype == "bfloat16"):
            outputs = forward(images)
        F.cross_entropy(outputs.float(), labels).backward()
        optimizer.step()

    fused = fused_forward(model)
    case = Case("norm_act", f"ResNet-20 step, {dtype}", size=batch, dtype=dtype, unit="images")
    calls = {"with norm_act": lambda: step(fused), "without": lambda: step(model)}
    if HERE.on_gpu:
        ours, theirs = (Competitor(name, call) for name, call in calls.items())
        compare(case, ours, [theirs])
        return
    compare.times(case, interleaved(calls, 3 if HERE.quick else 9))
