"""Iterative magnitude pruning, its controls and its variants: error against density (Paul et al. 2022, Fig. 5)."""

from collections.abc import Callable, Iterator
from typing import Any

from sparselt.experiments.experiment import Experiment
from sparselt.experiments.imp.options import ImpOptions
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.stages.stage import StageFile
from sparselt.stages.train import Train

Retrain = Callable[[Train, StageFile, int], Train]
_CHAINS = ("layerwise", "lr_rewinding", "fine_tuning")
_LEAST_RATE = 0.01


def imp(lab: Lab) -> Iterator[Measurement]:
    """Iterative magnitude pruning with weight rewinding, its controls and variants (Paul et al. 2022, Fig. 5).

    Test error of the dense network (`dense`, level 0), of every level at every rewind step (`imp`), and at the control
    rewind step of what `variants` names. With `level_0` rewound, `imp` has a level 0 at every rewind step, which its
    level 1, `one_shot` and the chains prune; else they prune `dense`.

    Controls and variants at the control levels, with as many weights as the ticket:

    - `random`: a random mask of the ticket's layerwise densities, on the same rewound weights;
    - `reinit`: the ticket's mask on a fresh initialization, trained in full (both Frankle et al. 2019);
    - `shuffled`: the ticket's mask, its rewound weights permuted among the live positions of each layer, so that each
      layer starts from the same numbers in other places. Ours, after the ablations of Frankle et al. 2021, Pruning
      Neural Networks at Initialization, who shuffle the mask within each layer: that is `random`;
    - `one_shot`: the dense network pruned once, and rewound (Frankle et al. 2019).

    Chains, at every level up to `variant_levels`; each prunes its own networks as often as IMP:

    - `layerwise`: IMP that ranks the weights of each layer on its own;
    - `lr_rewinding`: keeps the final weights and rewinds only the schedule (Renda et al. 2020);
    - `fine_tuning`: keeps the final weights and trains on at the schedule's last learning rate, for as many steps as a
      rewound network is trained (Renda et al. 2020, who fine-tune for the same number of epochs). Where that rate is
      all but zero, as a cosine's, 1% of the peak is taken instead, which is ours.

    Where a kept network trains on, it does so in the ticket's data order and with a fresh optimizer.

    Metrics: test_error, test_loss, train_loss; `empty_layer`, with `layer=name` as condition, where pruning has left
    none of a layer's weights.
    """
    setting, options = lab.setting, lab.setting.option(ImpOptions)
    for replicate in range(max(setting.replicates, setting.dense_replicates)):
        yield Measurement("imp", "dense", replicate, None, 0, lab.dense(replicate))
    for replicate in range(setting.replicates):
        for step in setting.rewind_steps:
            for level in range(0 if setting.level_0 == "rewound" else 1, setting.levels + 1):
                yield Measurement("imp", "imp", replicate, step, level, lab.ticket(replicate, step, level))
        step = setting.control_rewind_step
        others = replicate < (options.variant_replicates or setting.replicates)
        for level in setting.control_levels:
            yield from _controls(lab, replicate, step, level, others)
        for variant, retrain in _retrained(lab, replicate, step).items() if others else ():
            yield from _chain(lab, variant, retrain, replicate, step)


def _controls(lab: Lab, replicate: int, step: int, level: int, others: bool) -> Iterator[Measurement]:
    """What is compared with one ticket: the controls, and with `others` the variants."""
    variants = [v for v in lab.setting.option(ImpOptions).variants if others or v in ("random", "reinit")]
    mask = lab.mask(replicate, step, level)
    place = f"replicate {replicate}, level {level}"
    if "random" in variants:
        yield Measurement("imp", "random", replicate, step, level, lab.random_control(replicate, step, level))
    if "reinit" in variants:
        yield Measurement("imp", "reinit", replicate, step, level, lab.reinit_control(replicate, step, level))
    if "shuffled" in variants:
        weights = lab.shuffled(replicate, step, level)
        seeds = lab.seeds(replicate, level, step)
        network = lab.training(seeds, start_step=step, label=f"shuffled weights, {place}", weights=weights, mask=mask)
        yield Measurement("imp", "shuffled", replicate, step, level, network)
    if "one_shot" in variants:
        once = lab.pruned(lab.ticket(replicate, step, 0), None, f"one-shot mask, {place}", equal=mask)
        network = lab.rewound(replicate, step, once, f"one-shot, {place}", level=level)
        yield Measurement("imp", "one_shot", replicate, step, level, network)


def _retrained(lab: Lab, replicate: int, step: int) -> dict[str, Retrain]:
    """How each chain trains the network that was just pruned: of network, mask and level."""

    def kept(lab: Lab, what: str) -> Retrain:
        def retrain(network: Train, mask: StageFile, level: int) -> Train:
            label = f"{what}, replicate {replicate}, level {level}"
            seeds = lab.seeds(replicate, level, step)
            return lab.training(seeds, start_step=step, label=label, weights=network.final, mask=mask)

        return retrain

    def rewound(network: Train, mask: StageFile, level: int) -> Train:
        return lab.rewound(replicate, step, mask, f"layerwise, replicate {replicate}, level {level}", level=level)

    variants = lab.setting.option(ImpOptions).variants
    chains = {"layerwise": rewound, "lr_rewinding": kept(lab, "learning rate rewound")}
    if "fine_tuning" in variants:
        chains["fine_tuning"] = kept(_fine_tuning_lab(lab), "fine-tuned")
    return {variant: chains[variant] for variant in _CHAINS if variant in variants}


def _chain(lab: Lab, variant: str, retrain: Retrain, replicate: int, step: int) -> Iterator[Measurement]:
    """Prunes and trains in turn."""
    how: dict[str, Any] = {"scope": "layerwise", "rule": "exact"} if variant == "layerwise" else {}
    network, mask = lab.ticket(replicate, step, 0), None
    last = lab.setting.option(ImpOptions).variant_levels or max(lab.setting.control_levels, default=0)
    for level in range(1, last + 1):
        label = f"{variant} mask, replicate {replicate}, level {level}"
        mask = lab.pruned(network, mask, label, **how)
        network = retrain(network, mask, level)
        yield Measurement("imp", variant, replicate, step, level, network)


def _fine_tuning_lab(lab: Lab) -> Lab:
    """The lab whose schedule stays at the last learning rate."""
    setting = lab.setting
    rate = fine_tuning_rate(setting)
    # Decoupled decay goes with the rate over its peak, which is now the peak itself: one decay for both schedules.
    decay = setting.weight_decay * (rate / setting.lr if setting.decoupled_weight_decay else 1)
    return lab.changed(schedule="step", lr=rate, milestones=(), warmup_steps=0, weight_decay=decay)


def fine_tuning_rate(setting: Setting) -> float:
    """The learning rate of the schedule's last step; 1% of the peak where that is less than 0.01% of it."""
    last = setting.recipe.schedule.learning_rate(setting.steps - 1, setting.steps)
    return last if last >= _LEAST_RATE**2 * setting.lr else _LEAST_RATE * setting.lr


EXPERIMENT = Experiment(
    imp, "all four", options=ImpOptions, report="sparselt.experiments.imp.report", order=1, main=True
)
