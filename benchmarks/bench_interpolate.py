"""interpolate against loops of torch.lerp with a mask multiplied in.

Everybody writes all K weight sets into the same existing memory. The end points change before each call. The bytes that
must be moved for each weight: the ends, a byte of mask if there is one, and the K sets. Bandwidth is that of zeroing
memory.
"""

import pytest
import torch

from sparselt.benchmarks.conditions import conditions
from sparselt.benchmarks.harness import Case, Competitor, Rotation
from sparselt.benchmarks.networks import Shapes, shapes_of, training_step, weights
from sparselt.kernels import interpolate

HERE = conditions()
POINTS = [2, 9] if HERE.quick else [1, 2, 4, 9, 16, 30]
DENSITY = 0.2


class Problem:
    """Two or three networks of these shapes, twice, masks, and memory for K weight sets."""

    def __init__(self, shapes: Shapes, points: int, masked: bool = True, ends: int = 2):
        self.generator = torch.Generator(HERE.device).manual_seed(0)
        self.shapes, self.points, self.count = list(shapes), points, ends
        self.ends = Rotation(*([[self.draw(s, torch.randn) for s in shapes] for _ in range(ends)] for _ in range(2)))
        self.masks = [self.draw(s, torch.rand) < DENSITY for s in shapes] if masked else None
        self.factors = None if self.masks is None else [mask.float() for mask in self.masks]
        self.out = [torch.zeros(points, *s, device=HERE.device) for s in shapes]
        if ends == 2:
            self.coefficients = torch.linspace(0, 1, points, device=HERE.device)
        else:
            self.coefficients = torch.rand(points, 2, generator=self.generator, device=HERE.device) / 2
        self.numbers = self.coefficients.tolist()

    def draw(self, shape, kind):
        return kind(shape, generator=self.generator, device=HERE.device)

    def ours(self) -> None:
        interpolate(self.ends.now, self.coefficients, masks=self.masks, out=self.out)

    def loop(self) -> None:
        factors = self.factors or [None] * len(self.shapes)
        for k, number in enumerate(self.numbers):
            for rows, factor, *ends in zip(self.out, factors, *self.ends.now, strict=True):
                if self.count == 2:
                    torch.lerp(ends[0], ends[1], number, out=rows[k])
                else:
                    s, t = number
                    torch.lerp(ends[0], ends[1], s, out=rows[k]).add_(ends[2], alpha=t).sub_(ends[0], alpha=t)
                if factor is not None:
                    rows[k].mul_(factor)

    def foreach(self) -> None:
        for k, number in enumerate(self.numbers):
            rows = [r[k] for r in self.out]
            torch._foreach_copy_(rows, self.ends.now[0])
            torch._foreach_lerp_(rows, self.ends.now[1], number)
            if self.factors is not None:
                torch._foreach_mul_(rows, self.factors)

    def compare(self, compare, name: str, network: str, sweep: str | None, clock: str, foreach: bool = True) -> None:
        size, masked = weights(self.shapes), self.masks is not None
        rivals = [Competitor("lerp-and-mask loop" if masked else "lerp loop", self.loop, self.ends.turn)]
        if self.count == 2 and foreach:
            rivals.append(Competitor("foreach lerp" + " and mask" * masked, self.foreach, self.ends.turn))
        compare(
            Case("interpolate", name, size=size, density=DENSITY if masked else 1.0, K=self.points, sweep=sweep),
            Competitor("interpolate", self.ours, self.ends.turn),
            rivals,
            moved=size * (4 * self.count + masked + 4 * self.points),
            probe="copy" if HERE.on_gpu else "write",
            step=training_step(network),
            clock=clock,
        )


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
@pytest.mark.parametrize("points", POINTS)
def test_small_network(points, clock, compare):
    Problem(shapes_of("ResNet-20"), points).compare(compare, "ResNet-20, path", "ResNet-20", "K", clock)


@pytest.mark.parametrize("points", [9] if HERE.quick else POINTS if HERE.on_gpu else [9, 30])
def test_large_network(points, compare):
    problem = Problem(shapes_of("ResNet-50"), points)
    problem.compare(compare, "ResNet-50, path", "ResNet-50", "K", "events", foreach=HERE.on_gpu)


@pytest.mark.parametrize("ends", [2, 3])
def test_without_masks_and_in_a_plane(ends, compare):
    problem = Problem(shapes_of("ResNet-20"), 9, masked=ends == 3, ends=ends)
    name = "ResNet-20, plane" if ends == 3 else "ResNet-20, without masks"
    problem.compare(compare, name, "ResNet-20", None, HERE.clocks(small=True)[-1])
