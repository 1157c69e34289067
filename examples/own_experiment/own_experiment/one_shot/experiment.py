"""The driver of `one_shot`: it names what is trained and measured, and runs nothing itself."""

from collections.abc import Iterator

from own_experiment.one_shot.options import OneShotOptions
from sparselt.experiments import Experiment, Lab, Measurement
from sparselt.experiments.setting import Setting


def one_shot(lab: Lab) -> Iterator[Measurement]:
    """Error of networks that are pruned once after training, by criterion and density.

    The weights are rewound to the setting's last rewind step. Rows of pruned networks have `criterion=NAME` in the
    column `condition`.
    """
    options, step = lab.setting.option(OneShotOptions), max(lab.setting.rewind_steps)
    for replicate in range(lab.setting.replicates):
        dense = lab.checkpoint(replicate, step).stage  # asked for at once, so that no training is repeated for it
        yield Measurement("one_shot", "dense", replicate, None, 0, dense)
        for criterion in options.one_shot_criteria:
            scored = lab.changed(criterion=criterion)
            for number, density in enumerate(options.one_shot_densities, 1):
                name = f"{criterion}, density {density:g}, replicate {replicate}"
                mask = scored.pruned_mask(dense, None, f"mask by {name}", fraction=1 - density)
                ticket = lab.rewound(replicate, step, mask, f"pruned by {name}")
                where = ("one_shot", "pruned", replicate, step, number)
                yield Measurement(*where, ticket, condition=f"criterion={criterion}")


def unsupported_reason(setting: Setting) -> str:
    """Why a setting cannot run it; empty if it can."""
    return setting.option(OneShotOptions).unset(one_shot_densities="0.3,0.1")


EXPERIMENT = Experiment(
    one_shot,
    paper="ours",
    unsupported_reason=unsupported_reason,
    options=OneShotOptions,
    report="own_experiment.one_shot.report",
)
