"""Masked optimizers and their competitors on random weights, for the suites of the optimizers."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Competitor
from sparselt.benchmarks.networks import Shapes, network, weights
from sparselt.optim import MaskedOptimizer

HERE = conditions()
DENSITIES = [1.0, 0.05] if HERE.quick else [1.0, 0.2, 0.05, 0.01]
DENSITIES += [0.5, 0.1, 0.02] if HERE.on_gpu and not HERE.quick else []


@dataclass(frozen=True)
class Rule:
    """An optimizer: our class, torch's, their options, the numbers of state a weight.

    fused: whether torch has a fused implementation. live: our option that stores state for live weights only.
    """

    ours: type[MaskedOptimizer]
    theirs: type[torch.optim.Optimizer]
    options: Mapping[str, Any]
    buffers: int
    fused: bool = True
    live: str = "live_state"


class Problem:
    """Random weights of these shapes, a mask for each of two or more dimensions, and gradients that change."""

    def __init__(
        self,
        rule: Rule,
        shapes: Shapes,
        density: float,
        networks: int = 1,
        dtype: torch.dtype = torch.float32,
        together: int = 1,
    ):
        """networks: how often the shapes repeat. together: how many neighbouring weights share a mask bit."""
        self.generator = torch.Generator(HERE.device).manual_seed(0)
        self.rule = rule
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

    def masked(self, name: str = "", **options) -> Competitor:
        optimizer = self.rule.ours(self.parameters().items(), mask=self.masks, **self.rule.options, **options)
        return self.competitor(name or self.rule.ours.__name__, optimizer.step)

    def of_networks(self, name: str) -> Competitor:
        """One optimizer of as many ResNet-20s as the shapes are of."""
        models = [network("ResNet-20").to(HERE.device) for _ in range(self.networks)]
        named = [list(model.named_parameters()) for model in models]
        gradients, masks = iter(self.gradients), iter(self.masks.values())
        for _, parameter in chain.from_iterable(named):
            parameter.grad = next(gradients)
        layers = [{name: next(masks) for name, parameter in of_one if parameter.dim() > 1} for of_one in named]
        options = dict(self.rule.options) | {"lr": [0.01 + 0.001 * k for k in range(self.networks)]}
        return self.competitor(name, self.rule.ours.of_networks(models, layers, **options).step)

    def torchs(self, name: str, multiply: bool = True, loop: bool = False, **kind) -> Competitor:
        """Torch's optimizer; then the masks are multiplied in, by one foreach call or a loop."""
        parameters = self.parameters()
        optimizer = self.rule.theirs(parameters.values(), **self.rule.options, **kind)
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
        """The competitors; with a mask, ours with state for live weights only comes first."""
        ours, torchs, fast = (
            self.rule.ours.__name__,
            self.rule.theirs.__name__,
            "fused" if self.rule.fused else "foreach",
        )
        found = []
        if self.density < 1:
            found.append(self.masked(f"{ours}, {self.rule.live.replace('_', ' ')}", **{self.rule.live: True}))
        found += [
            self.torchs(f"{fast} {torchs} + mask", **{fast: True}),
            self.torchs(f"{fast} {torchs}, dense", multiply=False, **{fast: True}),
        ]
        if all_of_them:
            foreach = [self.torchs(f"foreach {torchs} + mask", foreach=True)] if self.rule.fused else []
            found[-1:-1] = [*foreach, self.torchs(f"plain {torchs} + mask, loops", loop=True, foreach=False)]
        return found

    @property
    def moved(self) -> float:
        masked, total = sum(layer.numel() for layer in self.masks.values()), weights(self.shapes)
        each = (12 if self.dtype == torch.float32 else 6) + 8 * self.rule.buffers
        if not HERE.on_gpu:
            return each * total + (masked if self.density < 1 else 0)
        touched = 1 - (1 - self.density) ** 8
        return each * (total - masked) + (each * touched + 1 / 8) * masked
