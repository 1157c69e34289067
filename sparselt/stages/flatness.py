"""Stages that measure the flatness of the loss at a solution, and perturb networks early in training."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparselt.stages.adaptive import Sweep
from sparselt.stages.masks import live_weights
from sparselt.stages.stage import Stage, StageFile, Task
from sparselt.stages.values import Value

if TYPE_CHECKING:
    from torch import Tensor

# ResNet-50 keeps about half a gigabyte for each image of 224 pixels when a gradient is differentiated again.
_PIXELS = 64 * 224 * 224


@dataclass(frozen=True, kw_only=True, eq=False)
class MeasureFlatness(Sweep):
    """The Hessian's largest eigenvalues and trace at a solution, and the largest fraction that one level can prune.

    Both use the same training images. The fraction has two thresholds: the dense network's training loss plus ε, as in
    the adaptive heuristic, and the solution's own loss plus ε, for its own LCS-set (Definition 2.1).

    Args:
        eigenvalues: how many.
        tolerance, products: of the eigenvalues, and the largest number of Hessian-vector products.
        trace_samples: number of random vectors for the trace.
    """

    kind = "flatness"
    title = "measure flatness"

    eigenvalues: int
    tolerance: float
    products: int
    trace_samples: int

    @property
    def extra_image_passes(self) -> float:
        """A Hessian-vector product takes about as long as four gradients (ResNet-50 at 64 px, two EPYC cores)."""
        return 4 * (self.products + self.trace_samples) * self.images

    @property
    def extra_weight_passes(self) -> float:
        """Beside its gradients, a product and what follows it take about as long as a network's files."""
        return self.products + self.trace_samples

    def run(self, task: Task) -> int:
        from sparselt.analysis.flatness import Hessian
        from sparselt.training.loop import training_loss

        mask = live_weights(task, self)
        search, points = self.search(task, mask)
        model = self.network()
        model.load_state_dict(task.weights(self.weights))
        batches = [part for batch in self.training_images(task) for part in _parts(batch.images, batch.labels)]
        loss = functools.partial(training_loss, techniques=self.techniques)
        with Hessian(model, batches, mask, loss=loss) as hessian:
            largest = hessian.eigenvalues(
                self.eigenvalues, tolerance=self.tolerance, max_products=self.products, seed=self.subsample_seed
            )
            trace = hessian.trace(samples=self.trace_samples, seed=self.subsample_seed)
        start = search.losses[0][0]
        own = dataclasses.replace(search, threshold=start + task.read(self.dense).train_loss_std)
        values = [Value(f"eigenvalue_{place}", value) for place, value in enumerate(largest.values, start=1)]
        values += [
            Value("eigenvalue_residual", max(largest.residuals)),
            Value("trace", trace.mean),
            Value("trace_standard_error", trace.standard_error),
            Value("loss", start),
            Value("threshold", search.threshold),
            Value("largest_prunable_fraction", search.largest or 0.0),
            Value("largest_own_fraction", own.largest or 0.0),
        ]
        task.write_values(values)
        return points


@dataclass(frozen=True, kw_only=True, eq=False)
class Perturb(Stage):
    """The rewound network, moved in a random direction by a multiple of the distance that the next pruning moves it.

    Paul et al. 2022, appendix D, take the dense network at the rewind step and the mask of level 1. Here it may be the
    network of any level, with the mask of the next. Only live weights move.

    Args:
        scale: the multiple.
        model, classes, channels, model_source: the network's shape.
        weights, mask: the network; without a mask it is dense.
        next_mask: of the level above.
    """

    kind = "perturb"
    title = "perturb rewound networks"
    unit = "networks"
    quick = True

    scale: float
    seed: int
    model: str
    classes: int
    channels: int
    model_source: str | None = None
    weights: StageFile
    mask: StageFile | None = None
    next_mask: StageFile

    @property
    def perturbed(self) -> StageFile:
        return self.file("weights.safetensors")

    def run(self, task: Task) -> int:
        from sparselt.analysis import perturbed, projection_distance

        mask, following = live_weights(task, self), task.mask(self.next_mask)
        weights = task.weights(self.weights)
        rewound = weights | {name: weights[name].masked_fill(~layer, 0.0) for name, layer in mask.items()}
        distance = self.scale * projection_distance(rewound, following)
        task.write_weights(self.perturbed.name, perturbed(rewound, mask, distance, self.seed))
        norm = math.sqrt(sum(float(rewound[name].double().square().sum()) for name in mask))
        relative = distance / norm if norm else math.nan
        task.write_values([Value("perturbation", distance), Value("relative_perturbation", relative)])
        return 1


def _parts(images: "Tensor", labels: "Tensor") -> "Iterator[tuple[Tensor, Tensor]]":
    """The batch in parts whose second derivatives fit a device's memory; small images need only one part."""
    size = max(1, _PIXELS // (images.shape[2] * images.shape[3]))
    return zip(images.split(size), labels.split(size), strict=True)
