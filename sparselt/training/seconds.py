"""What timed steps have taken, for a process that has not imported torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds for a training step, for evaluating an image, and for making, writing and reading a network's weights.

    start: seconds before the first batch of a process.
    """

    step: float
    image: float
    network: float
    start: float = 0.0
