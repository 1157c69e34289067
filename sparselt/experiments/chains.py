"""Chains of pruning and training, which differ in what is trained after each pruning."""

from collections.abc import Callable, Iterator
from typing import Any

from sparselt.experiments.lab import Lab
from sparselt.experiments.setting import Setting
from sparselt.stages.stage import StageFile
from sparselt.stages.train import Train

CHAINS = ("imp", "layerwise", "lr_rewinding", "fine_tuning")
"""What `chain` knows.

- `imp`: weight rewinding, see `Lab.ticket`;
- `layerwise`: IMP that ranks the weights of each layer on its own;
- `lr_rewinding`: keeps the final weights and rewinds only the schedule (Renda et al. 2020);
- `fine_tuning`: keeps the final weights and trains on at the schedule's last learning rate, for as many steps as a
  rewound network is trained (Renda et al. 2020, who fine-tune for the same number of epochs). Where that rate is all
  but zero, as a cosine's, 1% of the peak is taken instead, which is ours.

Where a kept network trains on, it does so in the ticket's data order and with a fresh optimizer.
"""

_LEAST_RATE = 0.01


def chain(lab: Lab, name: str, replicate: int, step: int, levels: int) -> Iterator[tuple[StageFile, Train]]:
    """Mask and network of each level from 1 to `levels`, of one of `CHAINS`. step: the rewind step."""
    if name == "imp":
        for level in range(1, levels + 1):
            yield lab.mask(replicate, step, level), lab.ticket(replicate, step, level)
        return
    how: dict[str, Any] = {"scope": "layerwise", "rule": "exact"} if name == "layerwise" else {}
    train = _TRAIN[name](lab, replicate, step)
    network, mask = lab.ticket(replicate, step, 0), None
    for level in range(1, levels + 1):
        mask = lab.pruned_mask(network, mask, f"{name} mask, replicate {replicate}, level {level}", **how)
        network = train(network, mask, level)
        yield mask, network


Retrain = Callable[[Train, StageFile, int], Train]
"""A function of network, mask and level that trains the network which was just pruned."""


def _layerwise(lab: Lab, replicate: int, step: int) -> Retrain:
    def retrain(network: Train, mask: StageFile, level: int) -> Train:
        return lab.rewound(replicate, step, mask, f"layerwise, replicate {replicate}, level {level}", level=level)

    return retrain


def _lr_rewinding(lab: Lab, replicate: int, step: int, what: str = "learning rate rewound") -> Retrain:
    def retrain(network: Train, mask: StageFile, level: int) -> Train:
        label = f"{what}, replicate {replicate}, level {level}"
        seeds = lab.seeds(replicate, level, step)
        return lab.training(seeds, start_step=step, label=label, weights=network.final, mask=mask)

    return retrain


def _fine_tuning(lab: Lab, replicate: int, step: int) -> Retrain:
    """Like `lr_rewinding`, but the learning rate stays at the last value of the schedule."""
    setting = lab.setting
    rate = fine_tuning_rate(setting)
    # Decoupled decay goes with the rate over its peak, which is now the peak itself: one decay for both schedules.
    decay = setting.weight_decay * (rate / setting.lr if setting.decoupled_weight_decay else 1)
    flat = lab.changed(schedule="step", lr=rate, milestones=(), warmup_steps=0, last_lr=0.0, weight_decay=decay)
    return _lr_rewinding(flat, replicate, step, "fine-tuned")


_TRAIN = {"layerwise": _layerwise, "lr_rewinding": _lr_rewinding, "fine_tuning": _fine_tuning}


def fine_tuning_rate(setting: Setting) -> float:
    """The learning rate of the schedule's last step; 1% of the peak where that is less than 0.01% of it."""
    last = setting.recipe.schedule.learning_rate(setting.steps - 1, setting.steps)
    return last if last >= _LEAST_RATE**2 * setting.lr else _LEAST_RATE * setting.lr
