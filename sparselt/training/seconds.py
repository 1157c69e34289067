"""The times from which a run is estimated.

They have a module of their own, because the process of the command reads them and does not import torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Measured seconds.

    step: of a training step. image: of evaluating an image. network: of making, writing and reading the weights of a
    network. start: before the first batch of a process.
    """

    step: float
    image: float
    network: float
    start: float = 0.0
