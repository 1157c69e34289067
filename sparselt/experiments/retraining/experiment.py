"""Does training again make new small weights to prune? (Paul et al. 2023, Unmasking, ICLR)"""

from collections.abc import Iterator

from sparselt.experiments.chains import chain
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.retraining.options import RetrainingOptions
from sparselt.experiments.setting import Setting
from sparselt.stages.distances import CompareRetrained
from sparselt.stages.train import finals

_BINS = 30


def retraining(lab: Lab) -> Iterator[Measurement]:
    """How small the weights are that the next level prunes, with the training of a level and without it.

    Paul et al. 2023 (Unmasking, ICLR): retraining finds a network with new small weights to prune. At the control
    rewind step, for IMP (weight rewinding), learning-rate rewinding and fine-tuning.

    Variants: those of `retraining_chains`. Conditions: `retrained=yes`, the level's solution; `retrained=no`, the
    solution before it under the level's mask. Metrics: `pruned_size` (root mean square of what the next pruning
    removes, over that of all live weights) at each level; `magnitude_share`, histograms at the middle level.
    """
    setting, options = lab.setting, lab.setting.option(RetrainingOptions)
    step, levels = setting.control_rewind_step, options.retraining_levels
    for replicate in range(options.retraining_replicates or setting.replicates):
        for name in options.retraining_chains:
            masks, networks = zip(*chain(lab, name, replicate, step, levels), strict=True)
            stage = CompareRetrained(
                threads=setting.threads,
                weights=finals([lab.ticket(replicate, step, 0), *networks]),
                masks=masks,
                fraction=setting.fraction,
                bins=_BINS,
                drawn=(max(1, levels // 2),),
                label=f"weights before and after retraining, {name}, replicate {replicate}",
                work=levels + 1,
            )
            yield Measurement("retraining", name, replicate, step, 0, stage)


def unsupported_reason(setting: Setting) -> str:
    """Why a setting cannot run it; empty if it can."""
    return setting.option(RetrainingOptions).unset(
        retraining_chains="imp,fine_tuning", retraining_levels=setting.levels
    )


EXPERIMENT = Experiment(
    retraining,
    "Paul et al. 2023",
    unsupported_reason,
    RetrainingOptions,
    report="sparselt.experiments.retraining.report",
    order=8,
)
