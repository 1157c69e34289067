"""How many trainings does a ticket take if each level prunes what it can? (Paul et al. 2022, section 2.2, Fig. 4)"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from sparselt.experiments.adaptive.options import AdaptiveOptions
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.protocol import MOST_LEVELS
from sparselt.experiments.setting import Setting
from sparselt.models import least_weights
from sparselt.stages.adaptive import AdaptivePrune
from sparselt.stages.stage import StageFile
from sparselt.stages.train import Train
from sparselt.training.recipe import derive_seed

_TENTHS = tuple(tenth / 10 for tenth in range(1, 10))


def adaptive(lab: Lab) -> Iterator[Measurement]:
    """Trainings and test error down to a given density: adaptive pruning against the same fraction at every level.

    Paul et al. 2022, section 2.2 and Fig. 4. Variants: `dense` (level 0), `adaptive` and `fixed` (IMP at the setting's
    fraction), from the same seeds and rewind step, each to its first level at or below the density in the condition
    `target`. Besides test errors, for each level from which `adaptive` pruned: `fraction` (pruned), `largest_fraction`
    (whose path stays below the `threshold`; 0 where none does), `pruned_density`, and for each fraction tried, its
    position, the `largest_loss` on the path.
    """
    condition = f"target={lab.setting.option(AdaptiveOptions).adaptive_density:g}"
    for replicate in range(lab.setting.replicates):
        dense = lab.dense(replicate)
        yield Measurement("adaptive", "dense", replicate, None, 0, dense, condition=condition)
        yield from _fixed(lab, replicate, condition)
        yield from _adaptive(lab, replicate, condition)


def unsupported_reason(setting: Setting) -> str:
    """Why a setting cannot run it; empty if it can."""
    options = setting.option(AdaptiveOptions)
    target = options.adaptive_density
    if not target:
        return options.unset(adaptive_density=0.1)
    if target * least_weights(setting.model) < 1 and target * (weights := sum(setting.prunable_weights)) < 1:
        return f"its adaptive_density of {target:g} is less than one of the {weights:,} weights of {setting.model}"
    if fixed_levels(setting) > MOST_LEVELS:
        return (
            f"pruning {setting.fraction:g} a level takes {fixed_levels(setting):,} levels to an adaptive_density of "
            f"{target:g}, more than {MOST_LEVELS:,}"
        )
    return ""


def fixed_levels(setting: Setting) -> int:
    """The first level of the fixed schedule whose density is at or below the target."""
    wanted = math.log(setting.option(AdaptiveOptions).adaptive_density) / math.log1p(-setting.fraction)
    # Rounded before the ceiling: 0.8⁴ asked for takes 4 levels, whatever the last bit of the quotient.
    return math.ceil(round(wanted, 9))


def sweeping(
    lab: Lab,
    replicate: int,
    step: int,
    network: Train,
    mask: StageFile | None,
    fractions: Sequence[float],
    images: int,
    more_networks: int = 0,
) -> dict[str, Any]:
    """Arguments of a stage that sweeps pruning fractions at a trained network (`sparselt.stages.adaptive.Sweep`).

    Args:
        step: the rewind step, whose level 0 gives the threshold.
        mask: the network's; None if it is dense.
        images: a subsample of the training set, 0 for all of it.
        more_networks: what else the stage evaluates, in networks on those images.
    """
    setting = lab.setting
    networks = 1 + len(fractions) * (setting.path_points - 1) + more_networks
    evaluated = min(images or setting.trained_count, setting.trained_count)
    return {
        **lab.evaluation_arguments,
        "fractions": tuple(fractions),
        "points": setting.path_points,
        "scope": setting.scope,
        "rule": None if setting.rule == "exact" else setting.rule,
        "minimum": setting.fraction,
        "techniques": setting.recipe.techniques,
        "subsample_seed": derive_seed(setting.seed, "training subsample", replicate),
        "images": images,
        "weights": network.final,
        "mask": mask,
        "dense": lab.ticket(replicate, step, 0).measured,
        "work": max(1, round(networks * evaluated / setting.evaluated_count)),
    }


def _fixed(lab: Lab, replicate: int, condition: str) -> Iterator[Measurement]:
    step = lab.setting.option(AdaptiveOptions).adaptive_rewind_step
    for level in range(1, fixed_levels(lab.setting) + 1):
        ticket = lab.ticket(replicate, step, level)
        yield Measurement("adaptive", "fixed", replicate, step, level, ticket, condition=condition)


def _adaptive(lab: Lab, replicate: int, condition: str) -> Iterator[Measurement]:
    """As far as can be planned: to the first level whose search has not run."""
    options = lab.setting.option(AdaptiveOptions)
    step = options.adaptive_rewind_step
    place = ("adaptive", "adaptive", replicate, step)
    network, mask, level = lab.ticket(replicate, step, 0), None, 0
    while True:
        label = f"adaptive search, replicate {replicate}, rewind {step}, level {level}"
        sweep = sweeping(lab, replicate, step, network, mask, _TENTHS, options.adaptive_images)
        search = AdaptivePrune(**sweep, label=label)
        yield Measurement(*place, level, search, network=network, condition=condition)
        found = lab.read_if_made(search.measured)
        if found is None:
            return
        level, mask = level + 1, search.made_mask
        label = f"adaptive, replicate {replicate}, rewind {step}, level {level}"
        network = lab.rewound(replicate, step, mask, label, level=level)
        yield Measurement(*place, level, network, condition=condition)
        if found.density <= options.adaptive_density:
            return


EXPERIMENT = Experiment(
    adaptive,
    "Paul et al. 2022",
    unsupported_reason,
    AdaptiveOptions,
    report="sparselt.experiments.adaptive.report",
    order=4,
)
