"""The order of samples, a function of (seed, epoch) alone, and which of several processes reads each."""

from dataclasses import dataclass

import numpy as np

from sparselt.errors import DataError


@dataclass(frozen=True)
class Shard:
    """One of `world_size` processes that read one data set together, as ranks of torchrun; by default the only one.

    Of every global batch of B samples, rank r takes places r·B // W to (r+1)·B // W - 1. The ranks' shares, one after
    another, are the batch that one process would read; their sizes differ by one sample at most. In an evaluation of N
    samples it takes samples r·N // W to (r+1)·N // W - 1, so that each sample falls to one rank.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self):
        check_whole("rank", self.rank)
        if check_whole("world_size", self.world_size) < 1:
            raise DataError(f"world_size is {self.world_size} processes: expected at least 1")
        if not 0 <= self.rank < self.world_size:
            raise DataError(f"rank {self.rank} of {self.world_size} processes: expected 0 to {self.world_size - 1}")

    @classmethod
    def current(cls) -> "Shard":
        """This process's rank where torch.distributed is initialized; else the only process."""
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            return cls(distributed.get_rank(), distributed.get_world_size())
        return cls()

    def share(self, count: int) -> range:
        """This rank's places of `count`. DataError where some rank would have none."""
        if count < self.world_size:
            raise DataError(
                f"{count} samples cannot be shared by {self.world_size} processes: give each at least one, by a larger "
                f"batch or fewer processes"
            )
        return range(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)


def check_whole(name: str, number: int) -> int:
    """The number; DataError unless it is a whole number."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer):
        raise DataError(f"{name} is {number!r}: expected a whole number")
    return int(number)


def sample_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` samples in one epoch: an int64 permutation of range(count).

    Each sample draws 64 bits from Philox4x32-10 keyed by the seed, and the samples are sorted by their draws. No
    library's shuffle is involved, so the order does not change with a version of NumPy or torch.
    """
    from sparselt.kernels.philox import ORDER, key_of, philox4x32

    if not 0 <= check_whole("epoch", epoch) < 2**31:
        raise DataError(f"epoch is {epoch}: expected 0 to 2**31 - 1")
    if count < 0:
        raise DataError(f"{count} samples have no order: expected 0 or more")
    counters = np.zeros((count, 4), dtype=np.int64)
    counters[:, 0] = np.arange(count)
    counters[:, 1] = epoch
    counters[:, 2] = ORDER
    words = philox4x32(counters, *key_of(seed)).astype(np.uint64)
    return np.argsort((words[:, 0] << np.uint64(32)) | words[:, 1], kind="stable").astype(np.int64)


def batches_of(order: np.ndarray, batch_size: int, start_step: int = 0, shard: Shard | None = None) -> np.ndarray:
    """A rank's share of the batches of an order from `start_step` on, as [steps, share]; an incomplete last batch is
    dropped."""
    steps = len(order) // batch_size
    check_whole("start_step", start_step)
    if not 0 <= start_step <= steps:
        raise DataError(
            f"start_step {start_step} is outside the epoch: it has {steps} steps, so 0 to {steps} can be asked"
        )
    places = (shard or Shard()).share(batch_size)
    batches = order[start_step * batch_size : steps * batch_size].reshape(steps - start_step, batch_size)
    return np.ascontiguousarray(batches[:, places.start : places.stop])


def steps_in(count: int, batch_size: int) -> int:
    """Whole batches in `count` samples; refuses a batch that is empty or larger than the data set."""
    if not 1 <= check_whole("batch_size", batch_size) <= count:
        raise DataError(f"batch size {batch_size} does not fit a split of {count} samples: choose 1 to {count}")
    return count // batch_size


def check_indices(indices: np.ndarray, count: int) -> np.ndarray:
    """The indices as int64 [N], or DataError where they are not samples of a split of `count`."""
    chosen = np.asarray(indices)
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
        raise DataError(f"indices are {chosen.dtype} {list(chosen.shape)}: expected whole numbers, at least one")
    if chosen.min() < 0 or chosen.max() >= count:
        raise DataError(f"indices go from {chosen.min()} to {chosen.max()}: the split has samples 0 to {count - 1}")
    return chosen.astype(np.int64)
