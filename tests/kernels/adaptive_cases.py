"""The rules of Adam and RMSprop for the kernel tests: a row of hyperparameters each, and the float64 answer."""

import math
from dataclasses import dataclass

import torch
from kernel_cases import TOLERANCE, Case
from torch import Tensor

from sparselt.kernels import masked_adam, masked_rmsprop
from sparselt.kernels._optimizer import Launch, Operation
from sparselt.kernels._optimizer.layout import Layout, block_table, pack_bits, pack_mask
from sparselt.kernels._tensors import addresses_of
from sparselt.kernels.masked_adam.reference import masked_adam as adam_reference
from sparselt.kernels.masked_rmsprop.reference import masked_rmsprop as rmsprop_reference


@dataclass(frozen=True)
class Rule:
    operation: Operation
    row: tuple

    def reference(self, weight, gradient, state, live, step):
        if self.operation in masked_rmsprop.OPERATIONS.values():
            return rmsprop_reference(weight, gradient, state, live, self.row)
        return adam_reference(weight, gradient, state, live, self.row, step)


def adam_row(beta1: float, beta2: float, **options) -> masked_adam.Columns:
    usual = {"lr": 0.1, "eps": 1e-8, "weight_decay": 0.0, "shrink": 1.0, "amsgrad": 1.0, "sign": 1.0}
    log1, log2 = (math.log(beta) if beta else -math.inf for beta in (beta1, beta2))
    averages = {"keep1": 1 - beta1, "log1": log1, "beta2": beta2, "keep2": 1 - beta2, "log2": log2}
    return masked_adam.Columns(**{**usual, **averages, **options})


def _rmsprop(centered: bool, momentum: bool, **options) -> Rule:
    row = {"lr": 0.1, "alpha": 0.9, "keep": 1 - 0.9, "eps": 1e-3, "weight_decay": 0.1, "sign": -1.0, **options}
    columns = masked_rmsprop.Columns(momentum=0.8 * momentum, centered=float(centered), **row)
    return Rule(masked_rmsprop.OPERATIONS[centered, momentum], columns)


RULES = {
    "adam": Rule(masked_adam.operation, adam_row(0.9, 0.999, weight_decay=0.1)),
    "adamw": Rule(masked_adam.operation, adam_row(0.8, 0.95, shrink=0.99, sign=-1.0)),
    "adam without averages": Rule(masked_adam.operation, adam_row(0.0, 0.0, eps=0.01)),
    "amsgrad": Rule(masked_adam.amsgrad_operation, adam_row(0.9, 0.9)),
    "amsgrad of no use": Rule(masked_adam.amsgrad_operation, adam_row(0.9, 0.9, amsgrad=0.0)),
    "rmsprop": _rmsprop(False, False),
    "rmsprop momentum": _rmsprop(False, True),
    "rmsprop centered": _rmsprop(True, False, weight_decay=0.0),
    "rmsprop centered momentum": _rmsprop(True, True),
}


def run(case: Case, rule: Rule, interpreted=None, *, live_state=False, begun=0) -> tuple[Tensor, Tensor]:
    """All steps, of which the second gives the first parameter no gradient. Returns the state and the counts of steps.

    interpreted: the step of Triton's interpreter; default: the device's. begun: steps that were made before, with a
        state of zeros.
    """
    device, dtype = case.parameters[0].device, case.parameters[0].dtype
    live = case.live().to(device)
    blocks, places = block_table(live)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    shape = rule.operation.buffers, places if live_state else case.length
    state = torch.full(
        shape, 0.0 if begun else float("nan"), dtype=wide, device=device
    )  # a first step must not read it
    steps = torch.full((len(blocks),), begun, dtype=torch.int32, device=device)
    rows = torch.tensor([rule.row], dtype=torch.float32 if interpreted or device.type == "cuda" else torch.float64)
    for gradients in given(case):
        launch = Launch(
            layout=Layout([p.numel() for p in case.parameters], case.offsets, [0] * len(case.parameters)),
            dtype=dtype,
            addresses=addresses_of(case.parameters, gradients),
            state=state,
            mask=pack_bits(live) if interpreted else pack_mask(live),
            hyperparameters=rows.to(device),
            blocks=blocks,
            live_state=live_state,
            steps=steps,
        )
        interpreted(rule.operation, launch) if interpreted else rule.operation.launch(launch)
    return state, steps


def given(case: Case) -> list[list[Tensor | None]]:
    return [[None, *gradients[1:]] if i == 1 else gradients for i, gradients in enumerate(case.gradients)]


def assert_answers(case: Case, rule: Rule, state: Tensor, what: str, begun: int = 0) -> None:
    """state: dense. Compares with the float64 answers, and sees that all that is masked is 0."""
    tolerance = TOLERANCE[case.parameters[0].dtype]
    for i, start in enumerate(case.start):
        weight, step = start.double(), begun
        expected = [torch.zeros_like(weight)] * rule.operation.buffers
        for gradients in given(case):
            if gradients[i] is not None:
                step += 1
                weight, expected = rule.reference(weight, gradients[i].double(), expected, case.masks[i], step)
        found = [case.parameters[i].cpu(), *(case.buffers(row.cpu().clone())[i] for row in state)]
        for k, (got, answer) in enumerate(zip(found, [weight, *expected], strict=True)):
            message = f"{what}: number {k} of parameter {i}, shape {tuple(got.shape)}"
            torch.testing.assert_close(
                got.double(),
                answer,
                rtol=tolerance,
                atol=tolerance,
                equal_nan=True,
                msg=lambda text, message=message: f"{message}\n{text}",
            )
            masked = got[~case.masks[i]]
            assert not masked.any() and not torch.signbit(masked.float()).any(), message
