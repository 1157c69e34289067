"""What the experiments vary beside the protocol itself: one frozen value, part of a setting."""

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sparselt.errors import SettingError

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

VARIANTS = ("random", "reinit", "shuffled", "one_shot", "layerwise", "lr_rewinding", "fine_tuning")
"""What `imp` compares with IMP by weight rewinding, see `sparselt.experiments.imp`."""

RATES = ("standard", "low", "warmup")
"""Learning rates that `stability` compares, see `sparselt.experiments.stability`."""


@dataclass(frozen=True)
class Grids:
    """The conditions of each experiment. An experiment whose grid is empty does not apply to the setting.

    Args:
        variants: of `imp`, see `VARIANTS`.
        variant_replicates: replicates of the variants other than `random` and `reinit`; 0: all.
        variant_levels: last level of the variants that prune again and again; 0: the last control level.
        heat_map: `connectivity` evaluates the lines between all pairs of levels at the last rewind step, not only
            between successive ones.
        instability_levels: `connectivity` trains a second copy, in another data order, of these levels from each
            rewind step.
        landscape_levels: L of the planes through w(L), its projection and w(L+1), at the first and last rewind step.
        landscape_points: points on each side of a plane's grid.
        landscape_replicates: replicates that planes are drawn for.
        adaptive_density: weights remaining at which `adaptive` and the fixed schedule stop; 0: not run.
        adaptive_rewind_step: rewind step of `adaptive`.
        adaptive_images: training images of its searches, a random subsample; 0: all of them.
        sibling_pretraining: steps of pretraining that siblings share.
        sibling_overlap: siblings whose masks are compared after each pretraining.
        sibling_counts: how many siblings' masks are combined.
        sibling_densities: weights remaining of the combined masks.
        sibling_retrained: of `sibling_pretraining`, the steps whose combined masks are retrained.
        sibling_levels: prunings by which each sibling reaches a density: 1, one-shot, or more, iteratively.
        sibling_iterative_counts: `sibling_counts` of siblings pruned more than once; each costs as many trainings.
        stability_levels: levels at which distances are measured.
        stability_rewind_steps: rewind steps of those.
        stability_rates: see `RATES`; those beside `standard` rewind to step 0.
        low_lr: learning rate of the rate `low`, and the peak of `warmup`'s where `warmup_lr` is 0.
        warmup_lr, warmup_lr_steps: peak of the rate `warmup`, and the steps over which it is reached.
        init_lr: learning rate of `rewind_to_init`.
        init_batch_sizes: batch sizes of `rewind_to_init`, at equal epochs.
        init_warmup_steps: warm-ups of it, at the setting's own batch size and learning rate.
        init_warmup_levels: rounds of those, each removing the setting's own share; 0: `init_levels` of `init_fraction`.
        init_levels: rounds of it.
        init_fraction: share of the live weights that each of its rounds removes; 0: the setting's own.
        repulsion_strengths: λ of the repelling (above 0) or attracting (below 0) loss.
        repulsion_levels: levels under it.
        flatness_levels: levels at which the Hessian's spectrum is taken.
        flatness_images: training images that it is taken on.
        flatness_eigenvalues: largest eigenvalues taken.
        flatness_products: Hessian-vector products that they may take; the trace takes half as many, at least 2.
        perturbation_level: level whose rewound network is perturbed, beside the dense network.
        perturbation_scales: norms of perturbations of the rewound network, over that of the pruning projection.
    """

    variants: tuple[str, ...] = ("random", "reinit")
    variant_replicates: int = 0
    variant_levels: int = 0
    heat_map: bool = True
    instability_levels: tuple[int, ...] = ()
    landscape_levels: tuple[int, ...] = ()
    landscape_points: int = 51
    landscape_replicates: int = 1
    adaptive_density: float = 0.0
    adaptive_rewind_step: int = 0
    adaptive_images: int = 0
    sibling_pretraining: tuple[int, ...] = ()
    sibling_overlap: int = 3
    sibling_counts: tuple[int, ...] = (2,)
    sibling_densities: tuple[float, ...] = (0.2,)
    sibling_retrained: tuple[int, ...] = ()
    sibling_levels: tuple[int, ...] = (1,)
    sibling_iterative_counts: tuple[int, ...] = (2,)
    stability_levels: tuple[int, ...] = ()
    stability_rewind_steps: tuple[int, ...] = ()
    stability_rates: tuple[str, ...] = ("standard",)
    low_lr: float = 0.0
    warmup_lr: float = 0.0
    warmup_lr_steps: int = 0
    init_lr: float = 0.0
    init_batch_sizes: tuple[int, ...] = ()
    init_warmup_steps: tuple[int, ...] = ()
    init_warmup_levels: int = 0
    init_levels: int = 0
    init_fraction: float = 0.0
    repulsion_strengths: tuple[float, ...] = ()
    repulsion_levels: int = 0
    flatness_levels: tuple[int, ...] = ()
    flatness_images: int = 512
    flatness_eigenvalues: int = 5
    flatness_products: int = 40
    perturbation_level: int = 1
    perturbation_scales: tuple[float, ...] = ()

    def check(self) -> "Grids":
        """The grids themselves.

        Raises:
            SettingError: a value that cannot be run, named.
        """
        for name, choices in (("variants", VARIANTS), ("stability_rates", RATES)):
            for value in getattr(self, name):
                if value not in choices:
                    raise SettingError(f"{name} holds {value!r}; expected some of {', '.join(choices)}")
        for name in _POSITIVE:
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; expected at least 1")
        for name in _RATES_AND_SHARES:
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingError(f"{name} is {getattr(self, name)}; expected zero or more")
        if self.landscape_points < 4:
            raise SettingError(f"landscape_points is {self.landscape_points}; expected at least 4")
        if self.flatness_eigenvalues > self.flatness_products:
            raise SettingError(
                f"flatness_eigenvalues is {self.flatness_eigenvalues}, more than the {self.flatness_products} "
                "Hessian-vector products of flatness_products that they may take; expected fewer, or more products"
            )
        if self.adaptive_density >= 1:
            raise SettingError(f"adaptive_density is {self.adaptive_density}; expected less than 1, such as 0.09")
        if any(not _LEAST <= density <= 1 - _LEAST for density in self.sibling_densities):
            raise SettingError(
                f"sibling_densities {list(self.sibling_densities)} are not all from {_LEAST} to {1 - _LEAST}"
            )
        for name in ("sibling_counts", "sibling_iterative_counts", "sibling_overlap"):
            counts = getattr(self, name)
            if any(not 2 <= count <= 64 for count in (counts if isinstance(counts, tuple) else (counts,))):
                raise SettingError(f"{name} {counts}: expected 2 to 64 siblings")
        if any(not 1 <= levels <= 64 for levels in self.sibling_levels):
            raise SettingError(f"sibling_levels {list(self.sibling_levels)} are not all from 1, one-shot, to 64")
        for step in self.sibling_retrained:
            if step not in self.sibling_pretraining:
                raise SettingError(
                    f"sibling_retrained holds {step}, which is not among sibling_pretraining "
                    f"{list(self.sibling_pretraining)}; add it there, or leave it out here"
                )
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if isinstance(value, tuple):
                if len(set(value)) < len(value):
                    raise SettingError(f"{name} {list(value)} names a value twice")
                if name not in _TEXTS and not all(math.isfinite(item) for item in value):
                    raise SettingError(f"{name} {list(value)} holds what is no number")
                if name not in ("repulsion_strengths", *_TEXTS) and any(item < 0 for item in value):
                    raise SettingError(f"{name} {list(value)} holds a negative number")
        return self

    def within(self, setting: "Setting") -> "Grids":
        """The grids without what lies at or past the end of the setting's training, above its levels, or is more than
        it has."""
        steps, levels = setting.steps, setting.levels
        kept: dict[str, Any] = {
            name: tuple(step for step in getattr(self, name) if step < steps)
            for name in STEPS
            if isinstance(getattr(self, name), tuple)
        }
        for name in ("instability_levels", "stability_levels", "flatness_levels"):
            kept[name] = tuple(level for level in getattr(self, name) if level <= levels)
        kept["variant_levels"] = min(self.variant_levels, levels)
        kept["perturbation_level"] = max(1, min(self.perturbation_level, levels - 1))
        kept["landscape_levels"] = tuple(level for level in self.landscape_levels if level < levels)
        if self.adaptive_rewind_step >= steps:
            kept["adaptive_rewind_step"] = max(setting.rewind_steps)
        if self.warmup_lr_steps >= steps:
            kept["stability_rates"] = tuple(rate for rate in self.stability_rates if rate != "warmup")
        kept |= {name: min(getattr(self, name), getattr(setting, most)) for name, most in AT_MOST.items()}
        return replace(self, **kept)


STEPS = (
    "adaptive_rewind_step",
    "sibling_pretraining",
    "sibling_retrained",
    "stability_rewind_steps",
    "warmup_lr_steps",
    "init_warmup_steps",
)
"""The fields that count optimizer steps: they may be written `500it` or `4ep`."""

# A part of all weights that is none: of 25 million 25.
_LEAST = 1e-3

ROOM_ABOVE = {
    **dict.fromkeys(("control_levels", "instability_levels", "stability_levels", "flatness_levels"), 0),
    **dict.fromkeys(("landscape_levels", "perturbation_level"), 1),
    "variant_levels": 0,
}
"""The fields that name levels, and how many levels a setting must have above them."""


AT_MOST = {
    **dict.fromkeys(("landscape_replicates", "variant_replicates"), "replicates"),
    **dict.fromkeys(("adaptive_images", "flatness_images"), "train_count"),
}
"""The fields that count what a setting has, and the field of the setting that says how many."""


def unset(setting: "Setting", **examples: object) -> str:
    """Which of these values of its grids a setting leaves empty, and how to give them, as the end of a sentence: why
    an experiment does not apply. Empty if it has them all."""
    names = [name for name in examples if not getattr(setting.grids, name)]
    give = " ".join(f"{name}={examples[name]}" for name in names)
    return f"it has no {' and no '.join(names)}; give such as --set {give}" if names else ""


def check_room(values: Mapping[str, Any], setting: "Setting") -> None:
    """Raises a SettingError if one of `values`, by field, names a step, a level or a count that the setting has not:
    `within` would leave it out and say nothing."""
    steps, levels = setting.steps, setting.levels
    for name, value in values.items():
        for number in value if isinstance(value, tuple | list) else (value,):
            if not all(isinstance(item, numbers.Real) for item in (number, steps, levels)):
                continue  # not a number: that is for the check of types to say
            if name == "control_rewind_step" and number not in setting.rewind_steps:
                raise SettingError(f"{name} is {number}; expected one of rewind_steps, {list(setting.rewind_steps)}")
            if name in AT_MOST and number > (most := getattr(setting, AT_MOST[name])):
                raise SettingError(f"{name} is {number:,}; expected at most {AT_MOST[name]}, {most:,}")
            if name in STEPS and number >= steps:
                raise SettingError(f"{name}: step {number} is at or past the end of training ({steps} steps)")
            if name in ROOM_ABOVE and number + ROOM_ABOVE[name] > levels:
                raise SettingError(
                    f"{name}: level {number} of a setting of {levels} levels; expected "
                    f"{levels - ROOM_ABOVE[name]} at most"
                )


_TEXTS = ("variants", "stability_rates")
_POSITIVE = (
    *("landscape_points", "landscape_replicates", "flatness_images", "flatness_eigenvalues"),
    *("flatness_products", "perturbation_level"),
)
_RATES_AND_SHARES = (
    *("adaptive_density", "adaptive_images", "low_lr", "warmup_lr", "init_lr", "init_levels", "init_fraction"),
    *("repulsion_levels", "variant_replicates", "variant_levels", "init_warmup_levels"),
)
