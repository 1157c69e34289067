"""magnitude_threshold and its mask against sorting and torch.kthvalue.

Ours take layers and masks as they are. So do competitors that first `select` the live magnitudes of all layers into one
flat array; open_lth then calls numpy.sort. If every weight is live, plain torch.kthvalue and the plain sorts get the
flat array ready-made. The bytes that must be moved: each weight once, and a byte of mask. Bandwidth is that of summing.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor, Rotation
from sparselt.benchmarks.networks import shapes_of, training_step, weights
from sparselt.kernels import magnitude_mask, magnitude_threshold

HERE = conditions()
FRACTION = 0.2
SIZES = [1e6] if HERE.quick else [1e5, 1e6, 1e7]


class Problem:
    """Weights of these shapes, at different scales a layer as in a trained network, twice, and one mask a layer."""

    def __init__(self, shapes, density: float):
        generator = torch.Generator(HERE.device).manual_seed(0)
        options: dict[str, Any] = {"generator": generator, "device": HERE.device}
        self.shapes, self.density = list(shapes), density
        self.masks = [torch.rand(s, **options) < density for s in shapes] if density < 1 else None
        drawn = [[0.02 * (1 + i % 4) * torch.randn(s, **options) for i, s in enumerate(shapes)] for _ in range(2)]
        if self.masks is not None:
            for layers in drawn:
                for layer, mask in zip(layers, self.masks, strict=True):
                    layer.mul_(mask)
        self.drawn = Rotation(*((layers, self.flat(layers)) for layers in drawn))
        self.live = self.drawn.now[1].numel()
        self.count = max(1, int(FRACTION * self.live))

    def flat(self, layers):
        """The live magnitudes."""
        flat = torch.cat([layer.abs().flatten() for layer in layers])
        return flat if self.masks is None else flat[torch.cat([mask.flatten() for mask in self.masks])]

    def select_and_sort(self):
        arrays = [layer.flatten().numpy() for layer in self.drawn.now[0]]
        if self.masks is not None:
            arrays = [a[m.flatten().numpy()] for a, m in zip(arrays, self.masks, strict=True)]
        return np.sort(np.abs(np.concatenate(arrays)))

    def rivals(self) -> list[Competitor]:
        count, drawn = self.count, self.drawn
        calls: dict[str, Callable[[], object]] = {
            "magnitude_mask": lambda: magnitude_mask(drawn.now[0], self.masks, count)
        }
        if not HERE.quick:
            calls["select + torch.kthvalue"] = lambda: self.flat(drawn.now[0]).kthvalue(count)
            if HERE.on_gpu:
                calls["select + torch.sort"] = lambda: torch.sort(self.flat(drawn.now[0]))
            else:
                calls["select + numpy.sort"] = self.select_and_sort
        if self.masks is None:
            calls["torch.kthvalue"] = lambda: drawn.now[1].kthvalue(count)
            if HERE.on_gpu:
                calls["torch.sort"] = lambda: torch.sort(drawn.now[1])
            else:
                calls["numpy.sort"] = lambda: np.sort(drawn.now[1].numpy())
        return [Competitor(name, call, drawn.turn) for name, call in calls.items()]

    def compare(self, compare, name: str, network: str | None, sweep: str | None, clock: str) -> None:
        size = weights(self.shapes)
        compare(
            Case("magnitude_threshold", name, size=size, density=self.density, sweep=sweep),
            Competitor(
                "magnitude_threshold",
                lambda: magnitude_threshold(self.drawn.now[0], self.masks, self.count),
                self.drawn.turn,
            ),
            self.rivals(),
            moved=size * (4 if self.masks is None else 5),
            probe="read",
            step=training_step(network) if network else None,
            clock=clock,
        )


@pytest.mark.parametrize("density", [1.0] if HERE.quick else [1.0, 0.2])
@pytest.mark.parametrize("network", ["ResNet-20", "ResNet-50"])
def test_networks(network, density, compare):
    clock = HERE.clocks(small=network == "ResNet-20")[0]
    Problem(shapes_of(network), density).compare(compare, f"{network}, density {density:g}", network, None, clock)


@pytest.mark.parametrize("size", SIZES)
def test_size(size, compare):
    problem = Problem([(HERE.scaled(size / 200), 10)] * 20, density=1.0)
    problem.compare(compare, "20 layers", None, "size", HERE.clocks(small=False)[0])
