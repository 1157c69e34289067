"""All of it on a laptop: ResNet-8 on scikit-learn's handwritten digits, minutes on two CPU cores."""

import dataclasses

from sparselt.data import Digits
from sparselt.experiments.setting import Setting

_OURS = "ours: a miniature in which the phenomena of the ImageNet and CIFAR settings can be seen"
_PAUL = "Paul et al. 2022, appendix C"

MINI = Setting(
    name="digits_resnet8",
    scale="mini",
    title="Iterative magnitude pruning of ResNet-8 on handwritten digits",
    paper="Paul et al. 2022, Unmasking the Lottery Ticket Hypothesis (protocol, in miniature)",
    source=Digits(),
    classes=10,
    channels=1,
    train_count=1297,
    test_count=500,
    engine="resident",
    train_size=8,
    eval_size=8,
    padding=1,
    model="resnet8",
    batch_size=64,
    steps=600,
    schedule="step",
    lr=0.3,
    milestones=(300, 450),
    levels=12,
    rewind_steps=(0, 60, 200),
    replicates=4,
    dense_replicates=12,
    control_levels=(3, 6, 9, 12),
    control_rewind_step=200,
    sources={
        "model": f"{_OURS}; CIFAR-style ResNet, one block a stage, widths 8-16-32, 19,464 prunable weights",
        "batch_size": _OURS,
        "steps": f"{_OURS}; 30 epochs",
        "lr": f"{_OURS}; high enough that training is unstable to SGD noise at initialization, as in the big networks",
        "milestones": f"÷10 at half and three quarters, as {_PAUL} for CIFAR-10",
        "momentum": _PAUL,
        "weight_decay": _PAUL,
        "levels": _PAUL,
        "fraction": _PAUL,
        "scope": "global, as in the authors' code",
        "rewind_steps": f"{_OURS}; initialization, and the ends of epochs 3 and 10",
        "replicates": _PAUL,
        "dense_replicates": "ours: the matching threshold is known better, for 8 trainings more",
        "reshuffle": f"one order for all levels, as in the authors' code; replicates independent, {_PAUL}",
        "rewound_momentum": "a fresh optimizer whose clock stands at the rewind step, as in the authors' code",
        "control_levels": "ours: four densities",
        "path_points": "Paul et al. 2022, Fig. 2: positions 0.1, …, 0.9 and the ends",
    },
)


def setting(scale: str) -> Setting:
    """`mini` is the default; `paper` is the same protocol with 10 replicates; `smoke` runs every stage in seconds."""
    if scale == "paper":
        return dataclasses.replace(MINI, scale="paper", replicates=10, dense_replicates=30)
    if scale == "smoke":
        return dataclasses.replace(
            MINI,
            scale="smoke",
            steps=60,
            milestones=(30, 45),
            levels=2,
            rewind_steps=(0, 20),
            replicates=2,
            dense_replicates=2,
            control_levels=(2,),
            control_rewind_step=20,
            path_points=5,
        )
    return MINI
