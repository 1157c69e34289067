"""ResNet-20 on CIFAR-10: the protocol of Paul et al. 2022, a mini scale for two CPU cores, and a smoke scale."""

import dataclasses

from sparselt.data import CIFAR10, SyntheticImages
from sparselt.experiments.setting import Setting

_PAUL = "Paul et al. 2022, appendix C"
_OURS = "ours; the paper does not say"
_CODE = "as in the authors' code"

PAPER = Setting(
    name="cifar10_resnet20",
    scale="paper",
    title="Iterative magnitude pruning of ResNet-20 on CIFAR-10",
    paper="Paul et al. 2022, Unmasking the Lottery Ticket Hypothesis",
    source=CIFAR10(),
    classes=10,
    channels=3,
    train_count=50_000,
    test_count=10_000,
    engine="resident",
    train_size=32,
    eval_size=32,
    padding=4,
    flip=True,
    model="resnet20",
    batch_size=128,
    steps=62_400,
    schedule="step",
    lr=0.1,
    milestones=(31_200, 46_800),
    momentum=0.9,
    weight_decay=1e-4,
    precision="bfloat16",
    levels=12,
    rewind_steps=(0, 250, 2000),
    replicates=4,
    control_levels=(3, 6, 9, 12),
    control_rewind_step=2000,
    sources={
        "model": "ResNet-20 of He et al. 2016 with projection shortcuts; 270,896 prunable weights",
        "initialization": f"{_OURS}: torch's own",
        "padding": "random crops after 4 pixels of padding and random flips, He et al. 2016, section 4.2",
        "flip": "He et al. 2016, section 4.2",
        "batch_size": _PAUL,
        "steps": _PAUL,
        "schedule": _PAUL,
        "lr": _PAUL,
        "milestones": _PAUL,
        "momentum": _PAUL,
        "weight_decay": _PAUL,
        "precision": _OURS,
        "levels": _PAUL,
        "fraction": _PAUL,
        "scope": f"global, {_CODE}",
        "rewind_steps": _PAUL,
        "replicates": _PAUL,
        "reshuffle": f"one order for all levels, {_CODE}; replicates independent, {_PAUL}",
        "rewound_momentum": f"a fresh optimizer whose clock stands at the rewind step, {_CODE}",
        "control_levels": "ours: four densities",
        "path_points": "Paul et al. 2022, Fig. 2: positions 0.1, …, 0.9 and the ends",
    },
)

_TWENTIETH = "a twentieth of the paper's"
_SMOKE_NOTE = "a smoke test: every stage in minutes, no finding can be seen"


def setting(scale: str) -> Setting:
    """`paper` is the exact protocol; `mini` a twentieth of its steps (8 epochs), six levels, two replicates; `smoke`
    every stage on 512 synthetic images of the same shape."""
    if scale == "mini":
        return dataclasses.replace(
            PAPER,
            scale="mini",
            steps=3120,
            milestones=(1560, 2340),
            levels=6,
            rewind_steps=(0, 100, 400),
            replicates=2,
            dense_replicates=4,
            control_levels=(3, 6),
            control_rewind_step=400,
            sources={
                **PAPER.sources,
                **dict.fromkeys(("steps", "milestones"), _TWENTIETH),
                "levels": "half the paper's",
                "rewind_steps": "ours: initialization, and two steps of the first epoch or so",
                "replicates": "half the paper's",
            },
        )
    if scale == "smoke":
        return dataclasses.replace(
            PAPER,
            scale="smoke",
            title="Smoke test of the CIFAR-10 ResNet-20 protocol on synthetic images",
            source=SyntheticImages(train_count=512, test_count=128, classes=10, height=32, width=32, storage="raw"),
            train_count=512,
            test_count=128,
            batch_size=64,
            steps=16,
            milestones=(8, 12),
            precision="float32",
            levels=2,
            rewind_steps=(0, 4),
            replicates=2,
            control_levels=(2,),
            control_rewind_step=4,
            path_points=5,
            sources={
                **PAPER.sources,
                **dict.fromkeys(("batch_size", "steps", "milestones", "levels", "rewind_steps"), _SMOKE_NOTE),
            },
        )
    return PAPER
