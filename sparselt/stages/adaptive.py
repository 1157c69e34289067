"""The stage that prunes as much as the training loss allows (Paul et al. 2022, section 2.2)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.scopes import Rule, Scope
from sparselt.stages.images import Evaluation, open_noted
from sparselt.stages.masks import PrunedMask, live_weights
from sparselt.stages.stage import JsonFile, StageFile, Task
from sparselt.stages.train import Measurements
from sparselt.stages.values import Value
from sparselt.training.recipe import Techniques

if TYPE_CHECKING:
    from sparselt.analysis import AdaptiveSearch
    from sparselt.data import ResidentEvalLoader, StreamingEvalLoader
    from sparselt.masks import Mask


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep(Evaluation):
    """A stage that tries pruning fractions at a trained network.

    Args:
        fractions: to try.
        points: on the path to each pruned network.
        scope, rule: see `sparselt.pruning.magnitude_prune`; None: `exact`.
        minimum: the fraction to prune if none stays below the threshold.
        techniques: they define the training loss.
        subsample_seed, images: the subsample of training images for the losses; 0 images: all.
        weights, mask: the network; without a mask it is dense.
        dense: measurements of the dense training, which give the threshold.
    """

    fractions: tuple[float, ...]
    points: int
    scope: Scope
    rule: Rule | None = None
    minimum: float
    techniques: Techniques
    subsample_seed: int
    images: int
    weights: StageFile
    mask: StageFile | None = None
    dense: JsonFile[Measurements]

    def training_images(self, task: Task) -> "ResidentEvalLoader | StreamingEvalLoader":
        """The subsample, without augmentation."""
        return self.eval_images(task, self.threads, split="train", count=self.images, seed=self.subsample_seed)

    def search(self, task: Task, mask: "Mask") -> "tuple[AdaptiveSearch, int]":
        """The sweep, and its work in points. The network's weights do not change."""
        from sparselt.analysis import TrainThreshold, adaptive_fraction, path_positions

        dense = task.read(self.dense)
        batches = self.training_images(task)
        networks = 1 + len(self.fractions) * (self.points - 1)
        points = max(1, round(networks * batches.count / open_noted(task.path(self.dataset)).count("test")))
        (weights,) = self.states(task, (self.weights,))
        search = adaptive_fraction(
            self.network(),
            weights,
            mask,
            batches,
            TrainThreshold(dense.train_loss, dense.train_loss_std).value,
            fractions=self.fractions,
            positions=path_positions(self.points),
            scope=self.scope,
            rule=self.rule or "exact",
            minimum=self.minimum,
            techniques=self.techniques,
            precision=self.precision,
            on_batch=lambda done: task.report(points * done // len(batches)),
        )
        return search, points


@dataclass(frozen=True, kw_only=True, eq=False)
class AdaptivePrune(PrunedMask, Sweep):
    """The next level's mask at the largest ratio whose path stays below the dense network's training loss plus ε.

    Loss and ε are from the dense training's last epoch, in training mode and on augmented images: the paper's first
    step read literally. The losses along the paths are in eval mode, on training images without augmentation.
    """

    kind = "adaptive_prune"
    title = "search how much to prune"

    def run(self, task: Task) -> int:
        from sparselt.pruning import magnitude_prune

        mask = live_weights(task, self)
        search, points = self.search(task, mask)
        weights = task.weights(self.weights)
        pruned = magnitude_prune(weights, mask, search.fraction, self.scope, rule=self.rule or "exact")
        values = [
            *self.save(task, pruned),
            Value("fraction", search.fraction),
            Value("largest_fraction", search.largest or 0.0),
            Value("threshold", search.threshold),
            Value("pruned_density", pruned.density),
        ]
        for fraction, losses in zip(search.fractions, search.losses, strict=True):
            values.append(Value("largest_loss", _largest(losses), position=fraction))
        task.write_values(values, density=pruned.density, note=search.note)
        return points


def _largest(losses: tuple[float, ...]) -> float:
    """The maximum, or NaN if any loss is NaN, which `max` may ignore."""
    return float("nan") if any(loss != loss for loss in losses) else max(losses)
