"""MaskedSGD against torch's optimizers with a mask multiplied into the weights ("+ mask"), and against a dense one.

Every competitor has its own weights, momentum and state, and all share the masks and the gradients, which are
overwritten before each call, as in a backward pass. The bytes that must be moved for each weight: 20, or 14 in bfloat16
with float32 momentum, and the mask (a byte on a CPU, a bit on a GPU). A GPU may skip sectors of eight masked weights.
In bfloat16, torch also keeps momentum in bfloat16, and moves 12.
"""

from typing import Any

import pytest
import torch

from sparselt import MaskedSGD
from sparselt.benchmarks.harness import Case, Competitor
from sparselt.benchmarks.networks import shapes_of, training_step, weights
from sparselt.benchmarks.optimizers import DENSITIES, HERE, Problem, Rule

OPTIONS: dict[str, Any] = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
SGD = Rule(MaskedSGD, torch.optim.SGD, OPTIONS, buffers=1, live="live_momentum")
SIZES = [1e4, 1e6] if HERE.quick else [1e4, 1e5, 1e6, 1e7]
SIZES += [1e8] if HERE.on_gpu else []
NETWORKS = [1, 8] if HERE.quick else [1, 2, 4, 8, 16]


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
@pytest.mark.parametrize("name", ["ResNet-8", "ResNet-20"])
def test_small_networks(name, clock, compare):
    """Since its last call, everybody else has used the caches, as forward and backward do in training."""
    problem = Problem(SGD, shapes_of(name), density=0.2)
    case = Case("masked_sgd", name, size=weights(problem.shapes), density=problem.density)
    step = training_step(name)
    compare(case, problem.masked(), problem.rivals(), moved=problem.moved, step=step, clock=clock)


def test_small_network_in_warm_caches(compare):
    problem = Problem(SGD, shapes_of("ResNet-20"), density=0.2)
    problem.warm = True
    case = Case("masked_sgd", "ResNet-20, warm caches", size=weights(problem.shapes), density=problem.density)
    step, clock = training_step("ResNet-20"), HERE.clocks(small=True)[0]
    compare(case, problem.masked(), problem.rivals(), moved=problem.moved, step=step, clock=clock)


@pytest.mark.parametrize("density", DENSITIES)
def test_density(density, compare):
    problem = Problem(SGD, shapes_of("ResNet-50"), density)
    case = Case("masked_sgd", "ResNet-50", size=weights(problem.shapes), density=density, sweep="density")
    step = training_step("ResNet-50")
    compare(case, problem.masked(), problem.rivals(density == 1), moved=problem.moved, step=step, clock="events")


@pytest.mark.parametrize("density", [0.2])
def test_bfloat16(density, compare):
    problem = Problem(SGD, shapes_of("ResNet-50"), density, dtype=torch.bfloat16)
    case = Case("masked_sgd", "ResNet-50, bfloat16", weights(problem.shapes), density, dtype="bfloat16")
    compare(case, problem.masked(), problem.rivals(False), moved=problem.moved, clock="events")


@pytest.mark.parametrize("clock", HERE.clocks(small=True)[-1:])
@pytest.mark.parametrize("size", SIZES)
def test_size(size, clock, compare):
    problem = Problem(SGD, [(HERE.scaled(size / 200), 10)] * 20, density=0.2)
    case = Case("masked_sgd", "20 layers", size=weights(problem.shapes), density=problem.density, sweep="size")
    compare(case, problem.masked(), problem.rivals(False), moved=problem.moved, clock=clock)


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
@pytest.mark.parametrize("networks", NETWORKS)
def test_several_networks(networks, clock, compare):
    problem = Problem(SGD, shapes_of("ResNet-20"), density=0.2, networks=networks)
    alone = [Problem(SGD, shapes_of("ResNet-20"), density=0.2) for _ in range(networks)]
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
        problems = {
            together: Problem(SGD, shapes_of("ResNet-50"), density, together=together) for together in (8, 16, 32)
        }
        ours, *others = (
            problem.masked(f"live in runs of {4 * together} bytes") for together, problem in problems.items()
        )
        size = weights(problems[8].shapes)
        case = Case("masked_sgd", "ResNet-50, live runs", size=size, density=density)
        moved = (20 * density + 1 / 8) * size
        compare(case, ours, others, moved=moved, clock="events")
