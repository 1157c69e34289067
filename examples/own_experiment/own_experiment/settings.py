"""A setting of your own: a function of the scale, derived from a setting of sparselt."""

import dataclasses

from own_experiment.one_shot.options import OneShotOptions
from own_experiment.sources import TurnedDigits
from sparselt.experiments.setting import Setting
from sparselt.reproduce import digits_resnet8


def turned_digits(scale: str) -> Setting:
    """A small network on digits that stand upside down. `mini` is the default, `smoke` has a replicate less."""
    mini = dataclasses.replace(
        digits_resnet8.setting("smoke"),
        name="turned_digits",
        scale="mini",
        title="One-shot pruning on digits that stand upside down",
        paper="ours, after Frankle & Carbin 2019 (One-shot pruning)",
        source=TurnedDigits(),
        model="own_experiment.networks:small_cnn",
        steps=160,
        milestones=(80, 120),
        rewind_steps=(0, 20),
        replicates=3,
        dense_replicates=3,
        options=(OneShotOptions(one_shot_densities=(0.3, 0.1)),),
        sources={"steps": "ours: eight epochs", "lr": "that of digits_resnet8"},
    )
    if scale == "smoke":
        return dataclasses.replace(mini, scale="smoke", steps=40, milestones=(20, 30), replicates=2, dense_replicates=2)
    return mini
