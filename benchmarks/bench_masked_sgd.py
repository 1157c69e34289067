"""MaskedSGD against torch's optimizers with a mask multiplied into the weights ("+ mask"), and against a dense one.

Every competitor has its own weights, momentum and state, and all share the masks and the gradients, which are
overwritten before each call, as in a backward pass. The bytes that must be moved for each weight: 20, or 14 in bfloat16
with float32 momentum, and the mask (a byte on a CPU, a bit on a GPU). A GPU may skip sectors of eight masked weights.
In bfloat16, torch also keeps momentum in bfloat16, and moves 12.
"""

from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from sparselt import MaskedSGD
from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor
from sparselt.benchmarks.networks import Shapes, network, shapes_of, training_step, weights

HERE = conditions()
OPTIONS: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
DENSITIES = [1.0, 0.05] if HERE.quick else [1.0, 0.2, 0.05, 0.01]
DENSITIES += [0.5, 0.1, 0.02] if HERE.on_gpu and not HERE.quick else []
SIZES = [1e4, 1e6] if HERE.quick else [1e4, 1e5, 1e6, 1e7]
SIZES += [1e8] if HERE.on_gpu else []
NETWORKS = [1, 8] if HERE.quick else [1, 2, 4, 8, 16]


class Problem:
    """Random weights of these shapes, a mask for each of two or more dimensions, and gradients that change."""

    def __init__(
        self,
        shapes: Shapes,
        density: float,
        networks: int = 1,
        dtype: torch.dtype = torch.float32,
        together: int = 1,
    ):
        """networks: how often the shapes repeat. together: how many neighbouring weights share a mask bit."""
        self.generator = torch.Generator(HERE.device).manual_seed(0)
        self.shapes, self.networks = list(shapes) * networks, networks
        self.density, self.dtype = density, dtype
        self.names = [f"p{i}" for i in range(len(self.shapes))]
        self.masks = {
            name: self.mask(shape, together)
            for name, shape in zip(self.names, self.shapes, strict=True)
            if len(shape) > 1
        }
        # Parts start at multiples of 64 bytes or more, as separate tensors would.
        sizes = [-(-weights([shape]) // 32) * 32 for shape in self.shapes]
        self.drawn = [self.draw((sum(sizes),), torch.randn).to(dtype) for _ in range(2)]
        self.gradient = torch.empty_like(self.drawn[0])
        parts = self.gradient.split(sizes)
        self.gradients = [part[: weights([s])].view(s) for part, s in zip(parts, self.shapes, strict=True)]
        self.turn = 0
        self.warm = False  # whether an untimed call before each timed one fills the caches

    def draw(self, shape, kind) -> Tensor:
        return kind(shape, generator=self.generator, device=HERE.device)

    def mask(self, shape, together: int) -> Tensor:
        size = weights([shape])
        groups = self.draw((-(-size // together),), torch.rand) < self.density
        return groups.repeat_interleave(together)[:size].view(shape)

    def parameters(self) -> dict[str, Parameter]:
        """New weights, whose gradients are this problem's."""
        made = {}
        for name, shape, gradient in zip(self.names, self.shapes, self.gradients, strict=True):
            made[name] = Parameter(self.draw(shape, torch.randn).to(self.dtype))
            made[name].grad = gradient
        return made

    def fresh_gradients(self) -> None:
        self.turn = 1 - self.turn
        self.gradient.copy_(self.drawn[self.turn])

    def competitor(self, name: str, call) -> Competitor:
        def fresh_and_warm() -> None:
            self.fresh_gradients()
            call()

        return Competitor(name, call, fresh_and_warm if self.warm else self.fresh_gradients)

    def masked(self, name: str = "MaskedSGD", **options) -> Competitor:
        optimizer = MaskedSGD(self.parameters().items(), mask=self.masks, **OPTIONS, **options)
        return self.competitor(name, optimizer.step)

    def of_networks(self, name: str) -> Competitor:
        """MaskedSGD of as many real networks as the shapes are of."""
        models = [network("ResNet-20").to(HERE.device) for _ in range(self.networks)]
        named = [list(model.named_parameters()) for model in models]
        gradients, masks = iter(self.gradients), iter(self.masks.values())
        for _, parameter in chain.from_iterable(named):
            parameter.grad = next(gradients)
        layers = [{name: next(masks) for name, parameter in of_one if parameter.dim() > 1} for of_one in named]
        options = OPTIONS | {"lr": [0.01 + 0.001 * k for k in range(self.networks)]}
        return self.competitor(name, MaskedSGD.of_networks(models, layers, **options).step)

    def torchs(self, name: str, multiply: bool = True, loop: bool = False, **kind) -> Competitor:
        """torch.optim.SGD; then the masks are multiplied in, by one foreach call or a loop."""
        parameters = self.parameters()
        optimizer = torch.optim.SGD(parameters.values(), **OPTIONS, **kind)
        masked: list[torch.Tensor] = [parameters[key] for key in self.masks]
        factors = [layer.to(self.dtype) for layer in self.masks.values()]

        @torch.no_grad()
        def step() -> None:
            optimizer.step()
            if multiply and loop:
                for weight, factor in zip(masked, factors, strict=True):
                    weight.mul_(factor)
            elif multiply:
                torch._foreach_mul_(masked, factors)

        return self.competitor(name, step)

    def rivals(self, all_of_them: bool = True) -> list[Competitor]:
        """The competitors; with a mask, ours with momentum for live weights only comes first."""
        found = [self.masked("MaskedSGD, live momentum", live_momentum=True)] if self.density < 1 else []
        found += [
            self.torchs("fused SGD + mask", fused=True),
            self.torchs("fused SGD, dense", multiply=False, fused=True),
        ]
        if all_of_them:
            found[-1:-1] = [
                self.torchs("foreach SGD + mask", foreach=True),
                self.torchs("plain SGD + mask, loops", loop=True, foreach=False),
            ]
        return found

    @property
    def moved(self) -> float:
        masked, total = sum(layer.numel() for layer in self.masks.values()), weights(self.shapes)
        each = 20 if self.dtype == torch.float32 else 14
        if not HERE.on_gpu:
            return each * total + masked
        touched = 1 - (1 - self.density) ** 8
        return each * (total - masked) + (each * touched + 1 / 8) * masked


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
@pytest.mark.parametrize("name", ["ResNet-8", "ResNet-20"])
def test_small_networks(name, clock, compare):
    """Since its last call, everybody else has used the caches, as forward and backward do in training."""
    problem = Problem(shapes_of(name), density=0.2)
    case = Case("masked_sgd", name, size=weights(problem.shapes), density=problem.density)
    step = training_step(name)
    compare(case, problem.masked(), problem.rivals(), moved=problem.moved, step=step, clock=clock)


def test_small_network_in_warm_caches(compare):
    problem = Problem(shapes_of("ResNet-20"), density=0.2)
    problem.warm = True
    case = Case("masked_sgd", "ResNet-20, warm caches", size=weights(problem.shapes), density=problem.density)
    step, clock = training_step("ResNet-20"), HERE.clocks(small=True)[0]
    compare(case, problem.masked(), problem.rivals(), moved=problem.moved, step=step, clock=clock)


@pytest.mark.parametrize("density", DENSITIES)
def test_density(density, compare):
    problem = Problem(shapes_of("ResNet-50"), density)
    case = Case("masked_sgd", "ResNet-50", size=weights(problem.shapes), density=density, sweep="density")
    step = training_step("ResNet-50")
    compare(case, problem.masked(), problem.rivals(density == 1), moved=problem.moved, step=step, clock="events")


@pytest.mark.parametrize("density", [0.2])
def test_bfloat16(density, compare):
    problem = Problem(shapes_of("ResNet-50"), density, dtype=torch.bfloat16)
    case = Case("masked_sgd", "ResNet-50, bfloat16", weights(problem.shapes), density, dtype="bfloat16")
    compare(case, problem.masked(), problem.rivals(False), moved=problem.moved, clock="events")


@pytest.mark.parametrize("clock", HERE.clocks(small=True)[-1:])
@pytest.mark.parametrize("size", SIZES)
def test_size(size, clock, compare):
    problem = Problem([(HERE.scaled(size / 200), 10)] * 20, density=0.2)
    case = Case("masked_sgd", "20 layers", size=weights(problem.shapes), density=problem.density, sweep="size")
    compare(case, problem.masked(), problem.rivals(False), moved=problem.moved, clock=clock)


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
@pytest.mark.parametrize("networks", NETWORKS)
def test_several_networks(networks, clock, compare):
    problem = Problem(shapes_of("ResNet-20"), density=0.2, networks=networks)
    alone = [Problem(shapes_of("ResNet-20"), density=0.2) for _ in range(networks)]
    steps = [single.masked().call for single in alone]

    def one_by_one() -> None:
        for step in steps:
            step()

    def fresh() -> None:
        for single in alone:
            single.fresh_gradients()

    size = weights(problem.shapes)
    case = Case("masked_sgd", "K ResNet-20s at once", size=size, density=problem.density, K=networks, sweep="K")
    rivals = [Competitor("MaskedSGD, one by one", one_by_one, fresh), *problem.rivals(False)]
    ours, step = problem.of_networks("MaskedSGD.of_networks"), training_step("ResNet-20")
    compare(case, ours, rivals, moved=problem.moved, step=step, clock=clock)


if HERE.on_gpu or HERE.scale < 1:

    @pytest.mark.parametrize("density", [0.05] if HERE.quick else [0.2, 0.05])
    def test_granularity_of_memory(density, compare):
        """Equal shares of live sectors, single ones of 32 bytes or in longer runs: how much memory reads at once."""
        problems = {together: Problem(shapes_of("ResNet-50"), density, together=together) for together in (8, 16, 32)}
        ours, *others = (
            problem.masked(f"live in runs of {4 * together} bytes") for together, problem in problems.items()
        )
        size = weights(problems[8].shapes)
        case = Case("masked_sgd", "ResNet-50, live runs", size=size, density=density)
        moved = (20 * density + 1 / 8) * size
        compare(case, ours, others, moved=moved, clock="events")
