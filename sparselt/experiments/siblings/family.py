"""Siblings: networks that share their first steps, and what is measured of their masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.stages.masks import DrawMask
from sparselt.stages.siblings import CombineMasks, CompareMasks
from sparselt.stages.stage import Stage, StageFile
from sparselt.stages.train import Train, finals
from sparselt.training.recipe import derive_seed


@dataclass(frozen=True)
class _Sibling:
    """The last training of a sibling, the mask that it wore (None: dense), and that mask pruned to the density."""

    network: Train
    worn: StageFile | None
    mask: StageFile


@dataclass(frozen=True)
class Family:
    """Siblings of one replicate and pretraining, each pruned to one density in so many levels."""

    lab: Lab
    replicate: int
    pretraining: int
    levels: int
    density: float

    def overlap(self, count: int) -> Measurement:
        """How much the masks of the first `count` siblings overlap."""
        masks = tuple(sibling.mask for sibling in self._first(count))
        stage = CompareMasks(masks=masks, label=self._label(f"overlap of {count} siblings"))
        return self._measured("siblings", count, stage)

    def retrained(self, counts: Sequence[int]) -> Iterator[Measurement]:
        """The combined masks, that of the first sibling and a random one, each with its retraining."""
        for count in counts:
            for how in ("union", "intersection"):
                combined = self._combined(count, how)
                yield self._measured(how, count, combined)
                yield self._measured(how, count, self._retraining(combined.made_mask, f"{how} of {count} siblings"))
        yield self._measured("single", 1, self._retraining(self._first(1)[0].mask, "mask of one sibling"))
        if self.levels == 1 and counts:
            seed = derive_seed(
                self.lab.setting.seed, "sibling random mask", self.replicate, self.pretraining, str(self.density)
            )
            like = self._combined(max(counts), "union").made_mask
            label = self._label(f"random mask like the union of {max(counts)} siblings")
            mask = DrawMask(seed=seed, mask=like, label=label).made_mask
            yield self._measured("random", max(counts), self._retraining(mask, "random mask like a union"))

    def _combined(self, count: int, how: Literal["union", "intersection"]) -> CombineMasks:
        """Union or intersection, with as many weights as the first sibling's own mask."""
        first = self._first(count)
        return CombineMasks(
            how=how,
            scope=self.lab.setting.scope,
            condition=self._condition(count),
            weights=finals(sibling.network for sibling in first),
            worn=tuple(sibling.worn for sibling in first if sibling.worn is not None),
            as_many_as=first[0].mask,
            label=self._label(f"{how} of {count} siblings"),
        )

    def _first(self, count: int) -> list[_Sibling]:
        """Siblings are the copies 1, 2, …: copy 0 has the data order of the retraining."""
        return [self._sibling(copy) for copy in range(1, count + 1)]

    def _sibling(self, copy: int) -> _Sibling:
        # Rounded: the last digit of a root is the C library's, and the stage's identity should not be.
        fraction = round(1 - self.density ** (1 / self.levels), 9)
        worn = None
        for level in range(1, self.levels + 1):
            label = self._label(f"sibling {copy}" + (f" at level {level - 1}" if level > 1 else ""))
            network = self.lab.rewound(self.replicate, self.pretraining, worn, label, level=level, data_order_copy=copy)
            label = self._label(f"mask of sibling {copy}" + (f" at level {level}" if self.levels > 1 else ""))
            mask = self.lab.pruned_mask(network, worn, label, fraction=fraction, rule="exact")
            found, worn = _Sibling(network, worn, mask), mask
        return found

    def _retraining(self, mask: StageFile, what: str) -> Train:
        label = self._label(f"retrained {what}")
        return self.lab.rewound(self.replicate, self.pretraining, mask, label, level=self.levels)

    def _measured(self, variant: str, count: int, stage: Stage) -> Measurement:
        place = (variant, self.replicate, self.pretraining, self.levels)
        return Measurement("siblings", *place, stage, condition=self._condition(count))

    def _condition(self, count: int) -> str:
        return f"siblings={count} density={self.density:g}"

    def _label(self, what: str) -> str:
        prunings = f" in {self.levels} prunings" if self.levels > 1 else ""
        place = f"replicate {self.replicate}, pretraining {self.pretraining}, density {self.density:g}"
        return f"{what}, {place}{prunings}"
