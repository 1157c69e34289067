"""Stages that compare and combine the masks of siblings."""

import dataclasses
import functools
import operator
from dataclasses import dataclass
from typing import Annotated, Literal

from sparselt.scopes import Scope
from sparselt.stages.identity import key_name, numbered_key_names
from sparselt.stages.masks import MakesMask
from sparselt.stages.stage import Stage, StageFile, Task
from sparselt.stages.values import Value


@dataclass(frozen=True, kw_only=True, eq=False)
class CompareMasks(Stage):
    """The overlap of masks against global and layerwise chance, see `sparselt.analysis.overlap`."""

    kind = "overlap"
    title = "compare masks of siblings"
    unit = "masks"
    quick = True

    masks: Annotated[tuple[StageFile, ...], numbered_key_names("mask")]

    def run(self, task: Task) -> int:
        from sparselt.analysis.overlap import mask_overlap

        masks = [task.mask(mask) for mask in self.masks]
        density = sum(mask.density for mask in masks) / len(masks)
        found = dataclasses.asdict(mask_overlap(masks))
        task.write_values([Value(metric, value, density=density) for metric, value in found.items()])
        return 1


@dataclass(frozen=True, kw_only=True, eq=False)
class CombineMasks(MakesMask):
    """Union or intersection of siblings' masks, with as many weights as the mask `as_many_as`; its layerwise densities.

    Siblings that were pruned before already have masks. An intersection may hold only weights that live in all of these
    masks, a union only weights that live in one of them.

    Args:
        scope: how each sibling's weights are ranked.
        condition: of the values, see `sparselt.stages.Value`.
        weights: the siblings' networks.
        worn: the masks that they already have.
        as_many_as: a mask. The combined mask has as many live weights.
    """

    kind = "combine"
    title = "combine masks of siblings"
    unit = "masks"
    quick = True

    how: Literal["union", "intersection"]
    scope: Scope
    condition: str
    weights: Annotated[tuple[StageFile, ...], numbered_key_names("weights")]
    worn: Annotated[tuple[StageFile, ...], numbered_key_names("worn")]
    as_many_as: Annotated[StageFile, key_name("equal")]

    def run(self, task: Task) -> int:
        """Combines the masks.

        Raises:
            SettingError: too few weights are alive in all siblings.
        """
        import torch

        from sparselt.errors import SettingError
        from sparselt.masks import Mask
        from sparselt.siblings import combined_mask

        weights = [task.weights(file) for file in self.weights]
        equal = task.mask(self.as_many_as)
        # Weights that a sibling has lost are zero, so they rank last.
        dense = Mask({name: torch.ones_like(layer) for name, layer in equal.items()})
        mask, sibling_density = combined_mask(weights, equal.density, self.how, dense, self.scope)
        worn = [task.mask(file) for file in self.worn]
        if worn:
            alive = functools.reduce(operator.and_ if self.how == "intersection" else operator.or_, worn)
            if mask | alive != alive:
                raise SettingError(
                    f"siblings cannot reach density {mask.density:.4g} by {self.how}: of {alive.density:.4g} of the "
                    f"weights, alive in all {len(worn)} before their last pruning, {(mask | alive).live - alive.live} "
                    "are missing in some layer; combine fewer siblings, choose a larger density, or prune them in "
                    "fewer levels"
                )
        mask.save(task.folder / self.made_mask.name)
        values = [Value("sibling_density", sibling_density, density=mask.density)]
        for name, density in mask.layer_densities().items():
            condition = f"{self.condition} layer={name}"
            values.append(Value("layer_density", density, density=mask.density, condition=condition))
        task.write_values(values)
        return 1
