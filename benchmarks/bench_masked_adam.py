"""MaskedAdam against torch's Adam with a mask multiplied into the weights ("+ mask"), and against a dense one.

As in `bench_masked_sgd`, but the bytes that must be moved for each weight are 28, or 22 in bfloat16 with float32 state.
AdamW moves as many, and computes no more.
"""

import pytest
import torch

from sparselt import MaskedAdam
from sparselt.benchmarks.harness import Case
from sparselt.benchmarks.networks import shapes_of, training_step, weights
from sparselt.benchmarks.optimizers import DENSITIES, HERE, Problem, Rule

ADAM = Rule(MaskedAdam, torch.optim.Adam, {"lr": 0.001, "weight_decay": 1e-4}, buffers=2)


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
@pytest.mark.parametrize("name", ["ResNet-20", "LeNet-300-100"])
def test_small_networks(name, clock, compare):
    problem = Problem(ADAM, shapes_of(name), density=0.2)
    case = Case("masked_adam", name, size=weights(problem.shapes), density=problem.density)
    compare(case, problem.masked(), problem.rivals(), moved=problem.moved, step=training_step(name), clock=clock)


def test_small_network_in_warm_caches(compare):
    problem = Problem(ADAM, shapes_of("LeNet-300-100"), density=0.2)
    problem.warm = True
    case = Case("masked_adam", "LeNet-300-100, warm caches", size=weights(problem.shapes), density=problem.density)
    compare(case, problem.masked(), problem.rivals(), moved=problem.moved, clock=HERE.clocks(small=True)[0])


@pytest.mark.parametrize("density", DENSITIES)
def test_density(density, compare):
    problem = Problem(ADAM, shapes_of("ResNet-50"), density)
    case = Case("masked_adam", "ResNet-50", size=weights(problem.shapes), density=density, sweep="density")
    compare(case, problem.masked(), problem.rivals(density == 1), moved=problem.moved, clock="events")


def test_bfloat16(compare):
    problem = Problem(ADAM, shapes_of("ResNet-50"), 0.2, dtype=torch.bfloat16)
    case = Case("masked_adam", "ResNet-50, bfloat16", weights(problem.shapes), 0.2, dtype="bfloat16")
    compare(case, problem.masked(), problem.rivals(False), moved=problem.moved, clock="events")


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
def test_several_networks(clock, compare):
    problem = Problem(ADAM, shapes_of("ResNet-20"), density=0.2, networks=8)
    case = Case("masked_adam", "8 ResNet-20s at once", weights(problem.shapes), problem.density, K=8)
    ours = problem.of_networks("MaskedAdam.of_networks")
    compare(case, ours, problem.rivals(False), moved=problem.moved, clock=clock)
