"""MaskedRMSprop against torch's RMSprop with a mask multiplied into the weights ("+ mask"), and against a dense one.

Torch has no fused RMSprop, so its foreach implementation is the fastest competitor. The bytes that must be moved for
each weight are 20 without momentum, and 28 with it; foreach moves more, because each of its operations is a pass.
"""

import pytest
import torch

from sparselt import MaskedRMSprop
from sparselt.benchmarks.harness import Case
from sparselt.benchmarks.networks import shapes_of, training_step, weights
from sparselt.benchmarks.optimizers import HERE, Problem, Rule

OPTIONS = {"lr": 0.001, "weight_decay": 1e-4}
RULES = {
    "": Rule(MaskedRMSprop, torch.optim.RMSprop, OPTIONS, buffers=1, fused=False),
    ", momentum": Rule(MaskedRMSprop, torch.optim.RMSprop, OPTIONS | {"momentum": 0.9}, buffers=2, fused=False),
}


@pytest.mark.parametrize("clock", HERE.clocks(small=True))
def test_small_network(clock, compare):
    problem = Problem(RULES[""], shapes_of("LeNet-300-100"), density=0.2)
    case = Case("masked_rmsprop", "LeNet-300-100", size=weights(problem.shapes), density=problem.density)
    step = training_step("LeNet-300-100")
    compare(case, problem.masked(), problem.rivals(), moved=problem.moved, step=step, clock=clock)


@pytest.mark.parametrize("density", [1.0, 0.05])
@pytest.mark.parametrize("options", RULES)
def test_large_network(options, density, compare):
    problem = Problem(RULES[options], shapes_of("ResNet-50"), density)
    case = Case("masked_rmsprop", f"ResNet-50{options}", size=weights(problem.shapes), density=density)
    compare(case, problem.masked(), problem.rivals(density == 1), moved=problem.moved, clock="events")
