"""MaskedSGD against torch's optimizers with a mask multiplied in, interleaved, on whatever device is there.

    python -m pytest benchmarks/bench_masked_sgd.py --benchmark-enable -s

Before each timed step of MaskedSGD every competitor does one, on its own copy of the same network, so that all see the
same machine. Times are medians with 20th and 80th percentiles, in microseconds; `floor` is the time that the bytes
which the step must move take at the bandwidth of rewriting all weights in place, measured in the same rounds.
"""

from time import perf_counter

import pytest
import torch
from torch import Tensor

from sparselt import MaskedSGD

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DENSITY = 0.2
OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}


def residual_network(widths: list[int], blocks: int, classes: int = 10) -> list[tuple[int, ...]]:
    """Parameter shapes of a CIFAR-style ResNet with convolutional shortcuts and norms of two vectors each."""
    shapes, width = [(widths[0], 3, 3, 3), (widths[0],), (widths[0],)], widths[0]
    for out in widths:
        for block in range(blocks):
            shapes += [(out, width, 3, 3), (out,), (out,), (out, out, 3, 3), (out,), (out,)]
            if block == 0 and out != width:
                shapes += [(out, width, 1, 1), (out,), (out,)]
            width = out
    return [*shapes, (classes, width), (classes,)]


NETWORKS = {
    "ResNet-8": (residual_network([8, 16, 32], 1), 300),
    "ResNet-20": (residual_network([16, 32, 64], 3), 200),
    "25.6 M weights": ([(512, 512, 3, 3)] * 10 + [(1000, 2008)], 12),
}


class Competitor:
    def __init__(self, shapes: list[tuple[int, ...]], build):
        generator = torch.Generator().manual_seed(0)
        self.parameters = {
            f"p{i}": torch.nn.Parameter(torch.randn(shape, generator=generator).to(DEVICE))
            for i, shape in enumerate(shapes)
        }
        self.mask = {
            name: (torch.rand(p.shape, generator=generator) < DENSITY).to(DEVICE)
            for name, p in self.parameters.items()
            if p.dim() > 1
        }
        for p in self.parameters.values():
            p.grad = torch.randn(p.shape, generator=generator).to(DEVICE)
        self.step = build(self.parameters, self.mask)
        self.seconds: list[float] = []

    def run(self) -> None:
        start = perf_counter()
        self.step()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(perf_counter() - start)

    def microseconds(self) -> list[float]:
        kept = torch.tensor(self.seconds[len(self.seconds) // 5 :], dtype=torch.float64) * 1e6
        return torch.quantile(kept, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)).tolist()


def masked(parameters: dict[str, Tensor], mask: dict[str, Tensor]):
    return MaskedSGD(parameters.items(), mask=mask, **OPTIONS).step


def torchs(multiply: bool, **kind):
    def build(parameters: dict[str, Tensor], mask: dict[str, Tensor]):
        optimizer = torch.optim.SGD(parameters.values(), **OPTIONS, **kind)
        weights, factors = [parameters[name] for name in mask], [layer.float() for layer in mask.values()]

        def step() -> None:
            optimizer.step()
            if multiply:
                with torch.no_grad():
                    torch._foreach_mul_(weights, factors)

        return step

    return build


def rewriting(parameters: dict[str, Tensor], mask: dict[str, Tensor]):
    """8 bytes a weight, read and written in place: a copy moves 4 more on a CPU, which loads what it overwrites."""
    weights = torch.cat([p.detach().flatten() for p in parameters.values()])
    return lambda: weights.mul_(1.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_sgd(name, benchmark):
    shapes, rounds = NETWORKS[name]
    ours = Competitor(shapes, masked)
    others = {
        "fused SGD + mask multiply": Competitor(shapes, torchs(True, fused=True)),
        "foreach SGD + mask multiply": Competitor(shapes, torchs(True, foreach=True)),
        "dense fused SGD": Competitor(shapes, torchs(False, fused=True)),
        "rewriting": Competitor(shapes, rewriting),
    }

    def everyone_else() -> None:
        for other in others.values():
            other.run()

    benchmark.pedantic(ours.run, setup=everyone_else, rounds=rounds)
    median = ours.microseconds()[1]
    weights = sum(p.numel() for p in ours.parameters.values())
    floor = others.pop("rewriting").microseconds()[1] * (21 if DEVICE == "cpu" else 20.125) / 8
    print(f"\n{name}: {weights:,} weights in {len(shapes)} tensors, {DEVICE}, {torch.get_num_threads()} threads")
    for label, who in {"MaskedSGD": ours, **others}.items():
        low, middle, high = who.microseconds()
        print(f"  {label:28s} {middle:10.1f} ({low:.1f} to {high:.1f})   {middle / median:.2f} x MaskedSGD")
        benchmark.extra_info[label] = {"median_us": middle, "ratio": middle / median}
    print(f"  {'floor':28s} {floor:10.1f}")
