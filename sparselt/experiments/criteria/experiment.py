"""Which weights are worth keeping: pruning criteria against IMP at equal density (Frankle et al. 2021)."""

from collections.abc import Iterator

from sparselt.experiments.criteria.options import CriteriaOptions
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting


def criteria(lab: Lab) -> Iterator[Measurement]:
    """Pruning criteria, once at initialization or once after training, against IMP at equal density.

    After Frankle, Dziugaite, Roy and Carbin 2021, Pruning Neural Networks at Initialization: Why Are We Missing the
    Mark? All networks of a level have as many weights as the ticket; with `criteria_scope=layerwise`, which rounds in
    each layer, up to one weight a layer less.

    Variants: `dense`; `imp`, the ticket of each of `criteria_levels`, rewound to the control rewind step; `one_shot`,
    the dense network pruned once by a criterion. Conditions of `one_shot`: `criterion`, and `when` it scored the
    weights: at `initialization`, from where the network is trained in full (column rewind_step: 0), or after
    `training`, where its weights are then rewound to the control rewind step as the ticket's are.

    A replicate scores the same `criterion_images` in all its networks, and has one random order of weights.

    Metrics: test_error, test_loss, train_loss, and `empty_layer` as in `imp`.
    """
    setting, options = lab.setting, lab.setting.option(CriteriaOptions)
    for replicate in range(max(setting.replicates, setting.dense_replicates)):
        yield Measurement("criteria", "dense", replicate, None, 0, lab.dense(replicate))
    step = setting.control_rewind_step
    for replicate in range(setting.replicates):
        for level in options.criteria_levels:
            yield Measurement("criteria", "imp", replicate, step, level, lab.ticket(replicate, step, level))
            for criterion in options.criteria:
                yield from _one_shot(lab, criterion, replicate, level)


def unsupported_reason(setting: Setting) -> str:
    """Why a setting does not run it; empty if it does."""
    return setting.option(CriteriaOptions).unset(criteria="random,snip", criteria_levels=setting.levels)


def _one_shot(lab: Lab, criterion: str, replicate: int, level: int) -> Iterator[Measurement]:
    """The network pruned by one criterion to the ticket's number of weights, at initialization and after training."""
    late = lab.setting.control_rewind_step
    scored = {
        "initialization": (lab.checkpoint(replicate, 0), 0),
        "training": (lab.ticket(replicate, late, 0).final, late),
    }
    for when, (weights, step) in scored.items():
        label = f"{criterion} at {when}, replicate {replicate}, level {level}"
        mask = lab.mask_by_criterion(
            criterion,
            weights,
            None,
            f"mask by {label}",
            replicate=replicate,
            scope=lab.setting.option(CriteriaOptions).criteria_scope,
            as_many_as=lab.mask(replicate, late, level),
        )
        network = lab.rewound(replicate, step, mask, label, level=level)
        condition = f"criterion={criterion} when={when}"
        yield Measurement("criteria", "one_shot", replicate, step, level, network, condition=condition)


EXPERIMENT = Experiment(
    criteria,
    "Frankle et al. 2021",
    unsupported_reason,
    CriteriaOptions,
    report="sparselt.experiments.criteria.report",
    order=9,
)
