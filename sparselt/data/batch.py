"""What every loader yields, and what resident and streaming loaders have in common."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparselt.data.order import Shard, batches_of, check_indices, sample_order, steps_in
from sparselt.data.transforms import PadCrop
from sparselt.kernels._compile import compiled


class Batch(NamedTuple):
    """N samples on the loader's device, which the loader never writes to again.

    images: float32 [N, C, H, W], channels-last, normalized. labels: int64 [N]. indices: int64 [N], places in the split.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor


class TrainLoader:
    """Training batches; what sample i shows in epoch e depends on the seeds, e and i alone.

    shard: which share of every batch this process reads; batch_size and steps_per_epoch are those of all together.
        Default: this rank's, where torch.distributed is initialized.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        order_seed: int,
        augmentation_seed: int,
        transform: Any,
        device: torch.device | str,
        shard: Shard | None,
    ):
        self.count, self.batch_size, self.transform = count, batch_size, transform
        self.order_seed, self.augmentation_seed = order_seed, augmentation_seed
        self.steps_per_epoch = steps_in(count, batch_size)
        self.device, self.shard = torch.device(device), shard or Shard.current()
        self.share = len(self.shard.share(batch_size))

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The whole batches of this epoch from `start_step` on; nothing before it is computed."""
        order = sample_order(self.order_seed, epoch, self.count)
        return self._batches(batches_of(order, self.batch_size, start_step, self.shard), epoch)

    def _batches(self, steps: np.ndarray, epoch: int) -> Iterator[Batch]:
        """steps: int64 [steps, share], the samples of each batch."""
        raise NotImplementedError


class EvalLoader:
    """Every sample of a split exactly once, in order, never augmented; of several ranks each has its part.

    indices: int64 [N], read only these samples, in this order.
    """

    def __init__(self, count: int, batch_size: int, transform: Any, shard: Shard | None, indices: np.ndarray | None):
        chosen = np.arange(count) if indices is None else check_indices(indices, count)
        self.places = (shard or Shard.current()).share(len(chosen))
        self.indices = chosen[self.places.start : self.places.stop]
        self.count = len(self.indices)
        self.batch_size, self.transform = min(batch_size, self.count), transform
        steps_in(self.count, self.batch_size)

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        raise NotImplementedError


def normalized(images: Tensor, indices: Tensor, transform) -> Tensor:
    """uint8 [N, C, H, W] of any strides to float32, channels-last, in memory of its own; nothing is random."""
    if images.device.type == "cpu" and images.is_contiguous(memory_format=torch.channels_last):
        return _normalized_rows(images, transform)
    unmoved = PadCrop(0, False, transform.mean, transform.std, transform.scale)
    return augmented(images, indices, unmoved, seed=0, epoch=0)


def augmented(
    images: Tensor, indices: Tensor, transform: PadCrop, *, seed: int | Tensor, epoch: int | Tensor
) -> Tensor:
    """Padded, cropped and flipped by (seed, epoch, index), then normalized: float32, channels-last."""
    from sparselt.kernels import augment

    return augment(images, indices, seed=seed, epoch=epoch, **vars(transform))


def drawn(images: Tensor, indices: Tensor, transform: PadCrop, *, seed: int | Tensor, epoch: int | Tensor) -> Tensor:
    """The samples `indices` of a split, uint8 [N, C, H, W], `augmented`."""
    # Selecting rows of bytes copies memory, which is faster than `[indices]`.
    chosen = images.flatten(1).index_select(0, indices).view(-1, *images.shape[1:])
    return augmented(chosen, indices, transform, seed=seed, epoch=epoch)


def _normalized_rows(images: Tensor, transform) -> Tensor:
    """The same bits as `augment`, by vector instructions over whole rows of pixels."""
    from sparselt.kernels._threads import split
    from sparselt.kernels.augment import affine

    count, channels, height, width = images.shape
    out = torch.empty(images.shape, dtype=torch.float32, memory_format=torch.channels_last)
    rows = np.tile(np.array(affine(transform.mean, transform.std, transform.scale), np.float32), width)
    source, target = (t.permute(0, 2, 3, 1).numpy().reshape(count * height, width * channels) for t in (images, out))
    split(_normalize, (source, target, *rows), count * height, max(1, _PARALLEL_FROM // (width * channels)))
    return out


_PARALLEL_FROM = 1 << 18  # values, as in the augment kernel


@compiled
def _normalize(source, target, factors, terms, start, stop):
    for row in range(start, stop):
        pixels, values = source[row], target[row]
        for k in range(len(factors)):
            values[k] = factors[k] * np.float32(pixels[k]) + terms[k]
