"""Which sample comes when: a function of (seed, epoch) alone."""

import numpy as np

from sparselt.errors import DataError


def sample_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order of `count` samples in one epoch: an int64 permutation of range(count).

    Each sample draws 64 bits from Philox4x32-10 keyed by the seed, and the samples are sorted by their draws. No
    library's shuffle is involved, so the order does not change with a version of NumPy or torch.
    """
    from sparselt.kernels.philox import ORDER, key_of, philox4x32

    if epoch < 0 or count < 0:
        raise DataError(f"epoch {epoch} and count {count} must both be at least 0")
    counters = np.zeros((count, 4), dtype=np.int64)
    counters[:, 0] = np.arange(count)
    counters[:, 1] = epoch
    counters[:, 2] = ORDER
    words = philox4x32(counters, *key_of(seed)).astype(np.uint64)
    return np.argsort((words[:, 0] << np.uint64(32)) | words[:, 1], kind="stable").astype(np.int64)


def batches_of(order: np.ndarray, batch_size: int, start_step: int = 0) -> np.ndarray:
    """The batches of an order from `start_step` on, as [steps, batch_size]; an incomplete last one is dropped."""
    steps = len(order) // batch_size
    if not 0 <= start_step <= steps:
        raise DataError(
            f"start_step {start_step} is outside the epoch: it has {steps} steps, so 0 to {steps} can be asked"
        )
    return order[start_step * batch_size : steps * batch_size].reshape(steps - start_step, batch_size)


def steps_in(count: int, batch_size: int) -> int:
    """Whole batches in `count` samples; refuses a batch that is empty or larger than the data set."""
    if not 1 <= batch_size <= count:
        raise DataError(f"batch size {batch_size} does not fit a split of {count} samples: choose 1 to {count}")
    return count // batch_size
