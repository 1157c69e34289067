"""Can a network be rewound to its initialization if its training is stable? (Maene et al. 2021)"""

from collections.abc import Iterator

from sparselt.errors import SettingError
from sparselt.experiments.equal_epochs import equal_epochs
from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.rewind_to_init.measurements import condition_of, copies, repelled, rounds
from sparselt.experiments.rewind_to_init.options import RewindToInitOptions
from sparselt.experiments.setting import Setting


def rewind_to_init(lab: Lab) -> Iterator[Measurement]:
    """Rewinding to step 0 under trainings that are more or less stable: larger batches, warm-up, a repelling loss.

    Maene et al. 2021. Batch sizes train for the same epochs at one learning rate, `init_lr`; the warm-ups are those of
    the setting's own batch size and learning rate. Every round prunes `init_fraction`, or with `init_warmup_levels` the
    warm-ups' the setting's own fraction, which shares their trainings with `imp` and `stability`.

    Variants: `dense`, `imp`, `reinit` (the mask on a fresh initialization).
    Conditions: `batch_size=32 lr=0.1`, a warm-up as `warmup_steps=300` behind, the loss's λ as `repulsion=2`: λ above 0
    repels at the largest batch size, below 0 it attracts at the smallest, from or to all earlier solutions.
    Metrics: `test_error`; `barrier` between successive rounds; `instability` of a batch size's dense network, between
    two copies in different data orders (`init_copies`); `angular_distance` (2·angle/π on shared weights) of all
    pairs of rounds, `angular_distance_to_initialization`; `threshold`, `threshold_ratio`, `bimodality` and
    `weight_share` of the weights, see `sparselt.analysis.histograms`.
    """
    setting, options = lab.setting, lab.setting.option(RewindToInitOptions)
    _check(setting)
    labs = {
        size: _changed(lab, "init_batch_sizes", size, size, lr=options.init_lr) for size in options.init_batch_sizes
    }
    own, warmups = setting.batch_size, options.init_warmup_steps
    warm = {steps: _changed(lab, "init_warmup_steps", steps, own, warmup_steps=steps) for steps in warmups}
    for replicate in range(setting.replicates):
        for other in labs.values():
            yield from rounds(other, condition_of(other), replicate)
            if options.init_copies:
                yield copies(other, replicate)
        for steps, other in warm.items():
            yield from rounds(other, f"{condition_of(other)} warmup_steps={steps}", replicate)
        for strength in options.repulsion_strengths:
            chosen = labs[max(labs) if strength > 0 else min(labs)]
            yield from repelled(chosen, strength, options.repulsion_levels, replicate)


def unsupported_reason(setting: Setting) -> str:
    """Why a setting cannot run it; empty if it can."""
    sizes = f"{setting.batch_size},{4 * setting.batch_size}"
    options = setting.option(RewindToInitOptions)
    missing = options.unset(init_batch_sizes=sizes, init_lr=setting.lr, init_levels=setting.levels)
    return "" if options.init_warmup_steps else missing


def _changed(lab: Lab, field: str, chosen: int, batch_size: int, **values: float) -> Lab:
    """The lab of one condition; `field` of the options holds what was `chosen`."""
    options = lab.setting.option(RewindToInitOptions)
    rounds = {"init_levels": options.init_levels, "init_fraction": options.init_fraction or lab.setting.fraction}
    if field == "init_warmup_steps" and options.init_warmup_levels:
        rounds = {"init_warmup_levels": options.init_warmup_levels, "fraction": lab.setting.fraction}
    levels, fraction = rounds.values()
    try:
        return equal_epochs(lab, batch_size, levels=levels, fraction=fraction, **values)
    except SettingError as error:
        given = " and ".join(f"{name}={value:g}" for name, value in rounds.items())
        raise SettingError(f"{field} holds {chosen}, which with {given} cannot be run: {error}") from error


def _check(setting: Setting) -> None:
    options = setting.option(RewindToInitOptions)
    if options.init_batch_sizes and not options.init_lr:
        raise SettingError("init_lr is 0; expected the learning rate of init_batch_sizes, such as 0.1")
    if options.init_levels < 1:
        raise SettingError(f"init_levels is {options.init_levels}; expected at least 1 round of pruning")
    if not options.repulsion_strengths:
        return
    if 0 in options.repulsion_strengths:
        raise SettingError("repulsion_strengths holds 0, no loss at all; expected λ above 0 to repel, below to attract")
    if not options.init_batch_sizes:
        raise SettingError("repulsion_strengths needs init_batch_sizes: the loss acts at their largest or smallest")
    if not 1 <= options.repulsion_levels <= options.init_levels:
        raise SettingError(
            f"repulsion_levels is {options.repulsion_levels}; expected 1 to the {options.init_levels} of init_levels, "
            "which it is compared with"
        )


EXPERIMENT = Experiment(
    rewind_to_init,
    "Maene et al. 2021",
    unsupported_reason,
    RewindToInitOptions,
    report="sparselt.experiments.rewind_to_init.report",
    order=7,
    main=True,
)
