"""Positions in a training, counted in optimizer steps, and the learning rate at each."""

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from sparselt.errors import SettingError


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step. A rewound network resumes it at the checkpoint's step.

    Args:
        kind: `step` divides by `factor` at each milestone; `cosine` falls to zero at the last step, `linear` to `last`.
        peak: learning rate after the warm-up.
        milestones: steps at which the rate falls (`step` only).
        factor: divides the rate at each milestone.
        warmup_steps: steps in which the rate rises linearly from peak / warmup_steps to the peak.
        last: rate at the end of the training (`linear` only).
    """

    kind: Literal["step", "cosine", "linear"]
    peak: float
    milestones: tuple[int, ...] = ()
    factor: float = 10.0
    warmup_steps: int = 0
    last: float = field(default=0.0, metadata={"omit_default": True})

    def learning_rate(self, step: int, steps: int) -> float:
        """Rate of step `step` (counted from 0) in a training of `steps` steps."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "step":
            return self.peak / self.factor ** sum(step >= milestone for milestone in self.milestones)
        progress = (step - self.warmup_steps) / max(1, steps - self.warmup_steps)
        if self.kind == "linear":
            return self.peak + (self.last - self.peak) * progress
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * progress))


def parse_step(text: str | int, steps_per_epoch: int) -> int:
    """The number of optimizer steps in `text`: `2000`, `2000it` or `4ep`.

    Raises:
        SettingError: anything else.
    """
    match = re.fullmatch(r"(\d+)(it|ep)?", str(text).strip())
    if match is None:
        raise SettingError(
            f"step {text!r} is not understood; expected a number of steps (2000 or 2000it) or epochs (4ep)"
        )
    return int(match[1]) * (steps_per_epoch if match[2] == "ep" else 1)
