"""What a stage takes from a machine while it runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Resources:
    """What a stage takes on one machine while it runs.

    cores: CPU threads of a rank. gpus: of a rank; 0.5 lets two ranks share a GPU. ranks: processes that train one
    network together.
    """

    cores: int = 1
    gpus: float = 0.0
    ranks: int = 1

    @property
    def all_cores(self) -> int:
        """Of all ranks."""
        return self.cores * self.ranks

    @property
    def all_gpus(self) -> float:
        """Of all ranks."""
        return self.gpus * self.ranks

    def fits(self, cores: float, gpus: float) -> int:
        """How many such stages fit on these cores and GPUs at a time."""
        each = [int(cores // self.all_cores)]
        if self.gpus:
            each.append(int(gpus / self.all_gpus + 1e-6))
        return min(each)

    def within(self, other: "Resources") -> bool:
        """Whether a worker with the resources `other` is large enough for this."""
        return self.all_cores <= other.all_cores and self.all_gpus <= other.all_gpus
