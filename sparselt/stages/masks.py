"""Stages that make masks, or a checkpoint under one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from sparselt.scopes import Rule, Scope
from sparselt.stages.identity import key_name
from sparselt.stages.stage import ReadJson, Stage, StageFile, Task
from sparselt.stages.values import Value

if TYPE_CHECKING:
    from sparselt.masks import Mask

EMPTY_LAYER = "empty_layer"
"""Metric of a layer that pruning left without a weight; its condition names the layer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MakesMask(Stage):
    """A stage that makes a mask, `mask.safetensors`."""

    @property
    def made_mask(self) -> StageFile:
        return self.file("mask.safetensors")

    def empty_layers(self, read: ReadJson) -> Iterator[Value]:
        """A value for each layer that the mask leaves without a weight."""
        yield from ()


@dataclass(frozen=True, kw_only=True, eq=False)
class PrunedMask(MakesMask):
    """A stage that prunes a network. It makes the mask and notes the layers that it leaves empty."""

    def save(self, task: Task, mask: "Mask") -> list[Value]:
        """Writes the mask; returns a value for each layer that it leaves empty.

        Raises:
            SettingError: the mask has no live weight.
        """
        from sparselt.errors import SettingError
        from sparselt.pruning import empty_layers

        if not mask.live:
            raise SettingError(f"pruning left none of {mask.size:,} weights; prune fewer times, or a smaller fraction")
        mask.save(task.folder / self.made_mask.name)
        return [Value(EMPTY_LAYER, 1.0, density=mask.density, condition=f"layer={name}") for name in empty_layers(mask)]

    def values(self, read: ReadJson) -> Iterator[Value]:
        """The numbers without the empty layers, which are reported with the trainings under the mask."""
        return (value for value in read(self.measured) if value.metric != EMPTY_LAYER)

    def empty_layers(self, read: ReadJson) -> Iterator[Value]:
        """A value for each layer that the mask leaves without a weight."""
        return (value for value in read(self.measured) if value.metric == EMPTY_LAYER)


@dataclass(frozen=True, kw_only=True, eq=False)
class Prune(PrunedMask):
    """The next level's mask, from a trained network's weights and its mask.

    Args:
        fraction: share of the live weights to prune.
        scope, rule: see `sparselt.pruning.magnitude_prune`; None: `exact`.
        weights: the network.
        mask: the network's; None if it is dense.
        model, classes, channels, model_source: the network's shape; needed without a mask.
        as_many_as: a mask: keep as many weights as it has. Instead of `fraction`.
    """

    kind = "prune"
    title = "prune by magnitude"
    unit = "masks"
    quick = True

    fraction: float | None = None
    scope: Scope
    rule: Rule | None = None
    model: str | None = None
    classes: int | None = None
    channels: int | None = None
    model_source: str | None = None
    weights: StageFile
    mask: StageFile | None = None
    as_many_as: Annotated[StageFile | None, key_name("equal")] = None

    def run(self, task: Task) -> int:
        from sparselt.pruning import magnitude_prune

        mask = live_weights(task, self)
        fraction = fraction_of(task, mask, self.fraction, self.as_many_as)
        weights = task.weights(self.weights)
        pruned = magnitude_prune(weights, mask, fraction, self.scope, rule=self.rule or "exact")
        task.write_values(self.save(task, pruned))
        return 1


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawMask(MakesMask):
    """A random mask with the layerwise densities of another."""

    kind = "random_mask"
    title = "draw random masks"
    unit = "masks"
    quick = True

    seed: int
    mask: StageFile

    def run(self, task: Task) -> int:
        from sparselt.masks import Mask

        Mask.random_like(task.mask(self.mask), self.seed).save(task.folder / self.made_mask.name)
        return 1

    def empty_layers(self, read: ReadJson) -> Iterator[Value]:
        """Those of the other mask, which has as many live weights in each layer."""
        if isinstance(self.mask.stage, MakesMask):
            yield from self.mask.stage.empty_layers(read)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shuffle(Stage):
    """A checkpoint with the live weights of each masked layer permuted among its live positions.

    The permutation of a layer depends on the seed and the layer's name only; everything else stays as it is.
    """

    kind = "shuffle"
    title = "shuffle rewound weights"
    unit = "networks"
    quick = True

    seed: int
    weights: StageFile
    mask: StageFile

    @property
    def shuffled(self) -> StageFile:
        return self.file("weights.safetensors")

    def run(self, task: Task) -> int:
        import torch

        from sparselt.training.recipe import derive_seed

        weights, mask = task.weights(self.weights), task.mask(self.mask)
        mask.check_fits(weights)
        for name, layer in mask.items():
            generator = torch.Generator().manual_seed(derive_seed(self.seed, name))
            live = weights[name][layer]
            weights[name][layer] = live[torch.randperm(len(live), generator=generator)]
        task.write_weights(self.shuffled.name, weights)
        return 1


def fraction_of(task: Task, mask: "Mask", fraction: float | None, as_many_as: StageFile | None) -> float:
    """The share of live weights to prune: `fraction`, or the one that leaves as many as the mask `as_many_as` has."""
    if as_many_as is not None:
        return 1 - task.mask(as_many_as).live / mask.live
    assert fraction is not None, "a fraction or a mask says how much to prune"
    return fraction


def live_weights(task: Task, stage: Any) -> "Mask":
    """The mask of the stage's network; all prunable weights of its shape (model, classes, channels) if it is dense."""
    import torch

    from sparselt.masks import Mask
    from sparselt.models import check_unedited, prunable_shapes

    if stage.mask is not None:
        return task.mask(stage.mask)
    check_unedited(stage.model, stage.model_source)
    shapes = prunable_shapes(stage.model, stage.classes, stage.channels)
    return Mask({name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()})
