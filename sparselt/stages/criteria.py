"""The stage that prunes by a criterion other than the magnitude of trained weights."""

import functools
from dataclasses import dataclass
from typing import Annotated

from sparselt.scopes import Scope
from sparselt.stages.identity import key_name
from sparselt.stages.images import Evaluation
from sparselt.stages.masks import PrunedMask, fraction_of, live_weights
from sparselt.stages.stage import StageFile, Task
from sparselt.training.recipe import Techniques


@dataclass(frozen=True, kw_only=True, eq=False)
class PruneByCriterion(PrunedMask, Evaluation):
    """A mask without the weights that a criterion scores lowest, at initialization or after training.

    Args:
        criterion: a name that `sparselt.criteria.find_criterion` knows.
        criterion_source: digest of the user's file that defines it.
        fraction: share of the live weights to prune.
        as_many_as: a mask: keep as many weights as it has. Instead of `fraction`.
        scope: see `sparselt.pruning.prune`.
        samples: number of training images to score on, a random subsample.
        batch_size: of these images.
        seed: of the subsample and of random scores.
        techniques: they define the training loss.
        weights, mask: the network; without a mask it is dense.
        initial: its weights at initialization, for a criterion that needs them.
    """

    kind = "prune_by_criterion"
    title = "prune by a criterion"
    unit = "masks"
    quick = True
    cost_depends_on = ()

    criterion: str
    criterion_source: str | None = None
    fraction: float | None = None
    scope: Scope
    samples: int
    batch_size: int
    seed: int
    techniques: Techniques
    weights: StageFile
    mask: StageFile | None = None
    as_many_as: Annotated[StageFile | None, key_name("equal")] = None
    initial: StageFile | None = None

    def run(self, task: Task) -> int:
        """Scores and prunes; one mask."""
        from sparselt.criteria import check_unedited, find_criterion
        from sparselt.pruning import prune
        from sparselt.training.loop import training_loss

        check_unedited(self.criterion, self.criterion_source)
        mask = live_weights(task, self)
        fraction = fraction_of(task, mask, self.fraction, self.as_many_as)
        model = self.network()
        model.load_state_dict(task.weights(self.weights))
        batches = None
        if find_criterion(self.criterion).needs_batches:
            chosen = self.eval_images(task, self.threads, split="train", count=self.samples, seed=self.seed)
            batches = [
                part
                for images, labels, _ in chosen
                for part in zip(images.split(self.batch_size), labels.split(self.batch_size), strict=True)
            ]
        loss = functools.partial(training_loss, techniques=self.techniques)
        initial = None if self.initial is None else task.weights(self.initial)
        given = (model, mask, fraction, self.criterion, self.scope)
        pruned = prune(*given, batches=batches, seed=self.seed, loss=loss, initial=initial)
        task.write_values(self.save(task, pruned))
        return 1
