"""Stages that compare the weights of trained networks, or count them. They read no data."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from sparselt.stages.identity import numbered_key_names
from sparselt.stages.stage import Stage, StageFile, Task
from sparselt.stages.values import Value

if TYPE_CHECKING:
    from sparselt.masks import Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasureDistance(Stage):
    """L2 distance and angle (degrees) between two networks over the live weights of a mask (Frankle et al. 2019)."""

    kind = "distances"
    title = "measure distances of weights"
    unit = "pairs"

    threads: int
    first: StageFile
    second: StageFile
    mask: StageFile

    def run(self, task: Task) -> int:
        from sparselt.analysis.distances import angle, l2_distance

        mask = task.mask(self.mask)
        first, second = task.weights(self.first), task.weights(self.second)
        found = {"l2_distance": l2_distance(first, second, mask), "angle": angle(first, second, mask)}
        task.write_values([Value(name, value, density=mask.density) for name, value in found.items()])
        return 1


@dataclass(frozen=True, kw_only=True, eq=False)
class OfRounds(Stage):
    """A stage over the rounds of iterative pruning.

    Args:
        weights: the solutions of rounds 0 (dense), 1, …
        masks: the masks of rounds 1, …
    """

    threads: int
    weights: Annotated[tuple[StageFile, ...], numbered_key_names("weights")]
    masks: Annotated[tuple[StageFile, ...], numbered_key_names("mask", 1)]

    def load_masks(self, task: Task) -> "list[Mask]":
        """The mask of every round, beginning with the dense network's full one."""
        import torch

        from sparselt.masks import Mask

        masks = [task.mask(file) for file in self.masks]
        full = Mask({name: torch.ones(layer.shape, dtype=torch.bool) for name, layer in masks[0].items()})
        return [full, *masks]


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasureAngles(OfRounds):
    """Angular distance of all pairs of rounds, and of each to the initialization, on shared weights.

    Maene et al. 2021. Each pair is given once, with `level` below `to_level`.
    """

    kind = "angular_distances"
    title = "measure angles between rounds"
    unit = "pairs"

    initialization: StageFile

    def run(self, task: Task) -> int:
        from sparselt.analysis.distances import angular_distance_matrix

        masks = self.load_masks(task)
        states = [task.weights(file) for file in self.weights]
        matrix = angular_distance_matrix(states, masks, task.weights(self.initialization)).tolist()
        values = []
        for level, mask in enumerate(masks):
            density = mask.density
            values.append(Value("angular_distance_to_initialization", matrix[level][-1], level=level, density=density))
            for other in range(level + 1, len(masks)):
                distance = matrix[level][other]
                values.append(Value("angular_distance", distance, level=level, to_level=other, density=density))
        task.write_values(values)
        return len(values)


@dataclass(frozen=True, kw_only=True, eq=False)
class CountWeights(OfRounds):
    """Histograms of each round's live weights, and the threshold of the next pruning (Maene et al. 2021).

    Args:
        bins: of the histograms.
        fraction: share of the live weights that the next pruning removes.
        drawn: levels whose histograms are given: for each bin the share of the live weights, at the middle of the bin.
    """

    kind = "histograms"
    title = "count weights"
    unit = "networks"
    quick = True

    bins: int
    fraction: float
    drawn: tuple[int, ...]

    def run(self, task: Task) -> int:
        from sparselt.analysis.histograms import weight_histogram

        masks = self.load_masks(task)
        values = []
        for level, (mask, file) in enumerate(zip(masks, self.weights, strict=True)):
            found = weight_histogram(task.weights(file), mask, bins=self.bins, fraction=self.fraction)
            for metric in ("threshold", "threshold_ratio", "bimodality"):
                values.append(Value(metric, getattr(found, metric), level=level, density=mask.density))
            if level in self.drawn:
                for low, high, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
                    share, middle = count / mask.live, (low + high) / 2
                    values.append(Value("weight_share", share, level=level, density=mask.density, position=middle))
        task.write_values(values)
        return len(masks)


@dataclass(frozen=True, kw_only=True, eq=False)
class CompareRetrained(OfRounds):
    """How small the weights are that a next pruning removes, after each round's training and without it.

    For each round from 1 on, `pruned_size` (`sparselt.analysis.histograms`) of the round's solution and, with the same
    mask, of the solution before, which is what there would be to prune without training again; and histograms of the
    magnitudes over their root mean square. Condition: `retrained=yes` or `retrained=no`.

    Args:
        fraction: share of the live weights that the next pruning removes.
        bins: of the histograms, from 0 to 3 times the root mean square.
        drawn: rounds whose histograms are given: for each bin the share of the live weights, at the middle of the bin.
    """

    kind = "retraining"
    title = "compare weights before and after retraining"
    unit = "networks"
    quick = True

    fraction: float
    bins: int
    drawn: tuple[int, ...]

    def run(self, task: Task) -> int:
        from sparselt.analysis.histograms import magnitude_shares, pruned_size

        masks = self.load_masks(task)
        states = [task.weights(file) for file in self.weights]
        values = []
        for level, mask in enumerate(masks[1:], 1):
            for retrained, state in (("yes", states[level]), ("no", states[level - 1])):
                place = Value("pruned_size", pruned_size(state, mask, self.fraction), level=level)
                place = replace(place, density=mask.density, condition=f"retrained={retrained}")
                values.append(place)
                if level in self.drawn:
                    for position, share in magnitude_shares(state, mask, self.bins):
                        values.append(replace(place, metric="magnitude_share", value=share, position=position))
        task.write_values(values)
        return len(masks)
