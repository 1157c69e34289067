"""How much one IMP level may prune: the adaptive heuristic of Paul et al. 2022, section 2.2.

1. The threshold: the dense network's training loss plus ε, the standard deviation of that loss across the batches of
   the last epoch. Taken literally, these are the two numbers that a training measures
   (`sparselt.training.loop.Trained`): `TrainThreshold(trained.train_loss, trained.train_loss_std)`, of a network that
   is still training, in training mode, on augmented images. The networks on a path do not train; the paper does not say
   in which mode, nor on which images, their losses are taken. `dense_threshold` measures the dense network as the paths
   are measured.
2. `adaptive_fraction`: the largest ratio p of 10%, 20%, … for which the training loss stays below the threshold along
   the whole linear path from w(L) to its projection.
3. max(p, 20%) is pruned.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np
import torch
from torch import Tensor, nn

from sparselt.analysis.between import check_state
from sparselt.analysis.connectivity import check_positions, path_positions
from sparselt.errors import SettingError
from sparselt.kernels import interpolate
from sparselt.masks import Mask, as_mask, random_generator
from sparselt.pruning import Rule, Scope, check_fraction, magnitude_prune
from sparselt.training.folding import Folded
from sparselt.training.loop import autocast, training_loss
from sparselt.training.recipe import PLAIN, Techniques

FRACTIONS = tuple(tenth / 10 for tenth in range(1, 10))
MINIMUM = 0.2

_CHUNK_BYTES = 1 << 28  # of weight sets made at a time


@dataclass(frozen=True)
class TrainThreshold:
    """Step 1: the dense network's training loss (nats) and its standard deviation across batches, ε."""

    loss: float
    epsilon: float

    @property
    def value(self) -> float:
        """The training loss at which a network leaves the train LCS-set."""
        return self.loss + self.epsilon


@dataclass(frozen=True)
class AdaptiveSearch:
    """Steps 2 and 3. `dataclasses.replace(search, threshold=…)` is the choice under another threshold.

    Args:
        fractions: the ratios tried, increasing.
        positions: where on the path, 0 (the network) to 1 (its projection).
        losses: for each fraction the mean training loss (nats) at each position.
        threshold: the loss that all of a path must stay below.
        minimum: the least fraction that is pruned.
    """

    fractions: tuple[float, ...]
    positions: tuple[float, ...]
    losses: tuple[tuple[float, ...], ...]
    threshold: float
    minimum: float = MINIMUM

    @property
    def largest(self) -> float | None:
        """The largest fraction whose path stays below the threshold, whether smaller ones do or not; None: no fraction.

        A loss of NaN is not below.
        """
        below = [all(loss < self.threshold for loss in path) for path in self.losses]
        return max(itertools.compress(self.fractions, below), default=None)

    @property
    def fraction(self) -> float:
        """The fraction to prune: the largest one, or the minimum where that is more."""
        return max(self.largest or 0.0, self.minimum)

    @property
    def note(self) -> str:
        """Why the minimum is pruned; empty if a larger fraction was found."""
        if self.largest is not None and self.largest >= self.minimum:
            return ""
        start = self.losses[0][0]
        if not math.isfinite(start):
            return (
                f"the network's own training loss is {start}: its training diverged; the minimum, {self.minimum:g}, is "
                "pruned"
            )
        found = f"none of {len(self.fractions)} fractions" if self.largest is None else f"no more than {self.largest:g}"
        return (
            f"{found} can be pruned with a training loss below {self.threshold:.6g} all along the path; "
            f"the minimum, {self.minimum:g}, is pruned"
        )


def adaptive_fraction(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    mask: Mask,
    batches: Iterable,
    threshold: float | TrainThreshold,
    *,
    fractions: Sequence[float] = FRACTIONS,
    positions: Sequence[float] = path_positions(11),
    scope: Scope = "global",
    rule: Rule = "exact",
    minimum: float = MINIMUM,
    techniques: Techniques = PLAIN,
    precision: str = "float32",
    on_batch: Callable[[int], None] = lambda done: None,
) -> AdaptiveSearch:
    """Sweeps pruning ratios at the solution w(L): training losses on the paths to all its projections.

    Every ratio is evaluated, also beyond the first that fails: the paper sweeps and takes the maximum, and does not say
    that losses grow with the ratio. The networks are w(L) with the weights to prune multiplied by 1 - position;
    everything else, batch-norm statistics included, is that of w(L). They are in eval mode, and all of them see a batch
    before the next is read: one pass over the data.

    Args:
        model: a network of the architecture, left as it is.
        weights: the state dict of w(L).
        mask: its mask; `Mask.ones_like(model)` for a dense network.
        batches: training images, each batch (images, labels, …); a random subsample may serve, see `subsample_indices`.
        threshold: step 1, a `TrainThreshold` or its value; the loss must stay strictly below.
        fractions, positions: increasing; positions from 0 to 1. The paper does not say how many there are on a path.
        scope, rule: as for `magnitude_prune`.
        minimum: the least that is pruned.
        techniques: those of the training that the threshold was measured in; they decide which loss is meant.
        precision: `float32`, or `bfloat16` autocast.
        on_batch: called with the number of batches done.

    Raises:
        SettingError: impossible fractions, positions, minimum or threshold; a state dict of another model; no batch
            with samples; no weight left to prune.
        MaskError: a mask of another model.
        TrainingError: a live weight of w(L) that is not finite.
    """
    threshold = threshold.value if isinstance(threshold, TrainThreshold) else threshold
    fractions, positions = tuple(map(float, fractions)), tuple(map(float, positions))
    _check(fractions, positions, minimum, threshold)
    check_state("the network", weights, model.state_dict(), weights)
    mask = as_mask(mask)
    masks = [magnitude_prune(weights, mask, fraction, scope, rule=rule) for fraction in fractions]
    networks = _Paths(model, weights, masks, positions[1:])
    (start, *others), _ = _losses(model, networks, batches, techniques, precision, on_batch)
    each = len(positions) - 1
    return AdaptiveSearch(
        fractions=fractions,
        positions=positions,
        losses=tuple((start, *others[each * k : each * (k + 1)]) for k in range(len(masks))),
        threshold=threshold,
        minimum=minimum,
    )


def dense_threshold(
    model: nn.Module,
    weights: Mapping[str, Tensor],
    batches: Iterable,
    *,
    techniques: Techniques = PLAIN,
    precision: str = "float32",
) -> TrainThreshold:
    """Step 1 after training: the loss of the dense network in eval mode, and its standard deviation across `batches`.

    The paper's text takes both from the last epoch of training; see the top of this file. ε depends on the size of the
    batches: give those of the recipe. The mean counts every sample alike, as the search does.

    Args:
        weights: the state dict of the trained dense network.
        batches: training images, as those of the search, in batches of the recipe's size.

    Raises:
        SettingError: a state dict of another model, or fewer than two batches with samples.
    """
    check_state("the network", weights, model.state_dict(), weights)
    (mean,), each = _losses(model, [weights], batches, techniques, precision, lambda done: None)
    if len(each) < 2:
        raise SettingError(f"a standard deviation across batches needs at least 2 of them, got {len(each)}")
    return TrainThreshold(mean, torch.cat(each).std().item())


def subsample_indices(count: int, size: int | None, seed: int) -> np.ndarray:
    """A random subsample of `size` of `count` samples: their indices, int64, increasing; all of them if size is None.

    A smaller subsample is part of every larger one of the same seed. SettingError for a size that is not 1 to `count`.
    """
    if size is None:
        return np.arange(count)
    if not 1 <= size <= count:
        raise SettingError(f"a subsample of {size} of {count} samples; expected 1 to {count}, or None for all of them")
    return np.sort(random_generator(f"subsample/{seed}").permutation(count)[:size])


class _Paths:
    """The state of w(L), then those of the other networks on each path. Every pass makes them again."""

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], masks: list[Mask], positions: Sequence[float]):
        self._weights, self._masks = weights, masks
        parameters = dict(model.named_parameters(remove_duplicate=False))
        # A weight that two layers share has one name in a mask and two in a state dict.
        self._names = {
            name: [other for other, parameter in parameters.items() if parameter is parameters[name]]
            for name in masks[0]
        }
        self._positions = torch.tensor(positions, dtype=torch.float64, device=weights[next(iter(masks[0]))].device)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        yield dict(self._weights)
        first = [self._weights[name] for name in self._names]
        size = sum(weight.nbytes for weight in first)
        for mask in self._masks:
            projection = [weight * mask[name].to(weight.device) for name, weight in zip(mask, first, strict=True)]
            for some in self._positions.split(max(1, _CHUNK_BYTES // size)):
                rows = interpolate([first, projection], some)
                for place in range(len(some)):
                    moved = zip(self._names.values(), rows, strict=True)
                    yield dict(self._weights) | {name: row[place] for names, row in moved for name in names}


@torch.no_grad()
def _losses(
    model: nn.Module,
    states: Iterable[Mapping[str, Tensor]],
    batches: Iterable,
    techniques: Techniques,
    precision: str,
    on_batch: Callable[[int], None],
) -> tuple[list[float], list[Tensor]]:
    """The mean loss of each state over all samples, and every batch's losses: float64 [states] each."""
    folded = Folded(model)
    each, sizes = [], []
    for images, labels, *_ in batches:
        if not len(labels):
            continue
        losses = []
        for state in states:
            with autocast(images.device, precision):
                outputs = folded.load(state)(images)
            losses.append(training_loss(outputs, labels, techniques))
        each.append(torch.stack(losses).double())
        sizes.append(len(labels))
        on_batch(len(each))
    if not each:
        raise SettingError(
            "there is no batch with samples to evaluate on; give batches that can be read again, not an iterator"
        )
    total = sum((losses * size for losses, size in zip(each, sizes, strict=True)), torch.zeros(()))
    return (total / sum(sizes)).tolist(), each


def _check(fractions: Sequence[float], positions: Sequence[float], minimum: float, threshold: float) -> None:
    for fraction in (*fractions, minimum):
        check_fraction(fraction)
    if not fractions or any(b <= a for a, b in itertools.pairwise(fractions)):
        raise SettingError(f"fractions to try are {list(fractions)}; expected increasing ones, such as 0.1, 0.2, …")
    check_positions(positions)
    if not (isinstance(threshold, Real) and 0 < threshold < math.inf):
        raise SettingError(f"the threshold is {threshold!r}; expected a loss above 0, see TrainThreshold")
