"""Evaluates K networks of one architecture in one pass over the data."""

from collections.abc import Callable, Iterable, Mapping, Sized

import torch
from torch import Tensor, nn

from sparselt.errors import SettingError
from sparselt.training.loop import autocast, wrong_and_loss

# On a CPU a batch is cut into pieces. In float32 a piece has this many bytes of images for each thread, which is 64
# CIFAR images; in bfloat16 it has twice as many images. The activations of ResNet-20 then stay in the caches: two EPYC
# cores evaluate 4,000 images a second, but 1,900 in pieces of 1,000 images. All threads work on one piece together:
# a piece for each thread takes 1.1 to 1.3 times as long.
PIECE_BYTES = 64 * 3 * 32 * 32 * 4
_LEAST_PIECE = 8  # images: with fewer, idle cores cost more than the caches save


class SideBySide:
    """K states that one module takes in turn: `networks[k]` is the module with the k-th state.

    Nothing is copied: the module's tensors become views of `rows`.

    Args:
        module: its tensors are replaced; its mode stays.
        rows: [K, ...] for every tensor of its state dict; others are ignored. If a tensor has several names, as in a
            layer that is registered twice, only the first name's rows are read and written.
    """

    def __init__(self, module: nn.Module, rows: Mapping[str, Tensor]):
        self.module = module
        first_names: dict[int, str] = {}
        own = module.state_dict(keep_vars=True)
        for name, tensor in own.items():
            first_names.setdefault(id(tensor), name)
        self._targets = [own[name] for name in first_names.values()]
        self._states = list(zip(*(rows[name].unbind() for name in first_names.values()), strict=True))

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, k: int) -> nn.Module:
        for target, tensor in zip(self._targets, self._states[k], strict=True):
            target.data = tensor
        return self.module


@torch.no_grad()
def evaluate_together(
    networks: SideBySide,
    batches: Iterable,
    precision: str,
    *,
    in_pieces: bool,
    on_evaluated: Callable[[int, int], None] = lambda done, count: None,
) -> tuple[list[float], list[float]]:
    """Errors (fractions) and mean cross-entropies (nats) of K networks, each as `sparselt.training.loop.evaluate`'s.

    Args:
        in_pieces: cut batches where that is faster (see `PIECE_BYTES`); for networks that treat every sample on its
            own. Sums are still taken over the batch.
        on_evaluated: called with the number of pairs of network and batch done, and their number in all (0: unknown).

    Raises:
        SettingError: no batch at all.
    """
    count, pairs = 0, 0
    total = len(batches) * len(networks) if isinstance(batches, Sized) else 0
    wrong: list[Tensor | int] = [0] * len(networks)
    losses: list[Tensor | float] = [0.0] * len(networks)
    networks.module.eval()
    for images, labels, *_ in batches:
        pieces = images.split(_piece(images, precision)) if in_pieces else (images,)
        for k in range(len(networks)):
            module = networks[k]
            with autocast(images.device, precision):
                parts = [module(piece).float() for piece in pieces]
            outputs = parts[0] if len(parts) == 1 else torch.cat(parts)
            more_wrong, more_loss = wrong_and_loss(outputs, labels)
            wrong[k], losses[k] = wrong[k] + more_wrong, losses[k] + more_loss
            pairs += 1
            on_evaluated(pairs, total)
        count += len(labels)
    if not count:
        raise SettingError("there is no batch to evaluate on; give batches that can be read again, not an iterator")
    return [int(number) / count for number in wrong], [float(loss) / count for loss in losses]


def _piece(images: Tensor, precision: str) -> int:
    """Images to give a network at a time."""
    if images.device.type != "cpu":
        return len(images)
    bytes_of_one = images[:1].nbytes // (2 if precision == "bfloat16" else 1)
    return max(_LEAST_PIECE, PIECE_BYTES * torch.get_num_threads() // max(1, bytes_of_one))
