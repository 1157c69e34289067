"""ResNet-18 on CIFAR-100: the protocol of Paul et al. 2022, a mini scale, and a smoke scale."""

import dataclasses

from sparselt.data import CIFAR100, SyntheticImages
from sparselt.experiments.setting import Setting
from sparselt.reproduce import cifar10_resnet20 as cifar10

_PAUL = "Paul et al. 2022, appendix C"
_TWENTIETH = "a twentieth of the paper's"

PAPER = dataclasses.replace(
    cifar10.PAPER,
    name="cifar100_resnet18",
    title="Iterative magnitude pruning of ResNet-18 on CIFAR-100",
    source=CIFAR100(),
    classes=100,
    model="resnet18",
    steps=78_125,
    milestones=(23_438, 46_875, 62_500),
    lr_factor=5.0,
    weight_decay=5e-4,
    levels=15,
    rewind_steps=(0, 400, 3200),
    control_levels=(4, 8, 11, 15),
    control_rewind_step=3200,
    sources={
        **cifar10.PAPER.sources,
        "model": "ResNet-18 with a 3×3 first layer and no pooling, 11,210,432 prunable weights; the paper does not "
        "describe its first layer",
        "lr_factor": _PAUL,
    },
)


def setting(scale: str) -> Setting:
    """`paper` is the exact protocol; `mini` a twentieth of its steps (10 epochs), six levels, two replicates; `smoke`
    every stage on 512 synthetic images of the same shape."""
    if scale == "mini":
        return dataclasses.replace(
            PAPER,
            scale="mini",
            steps=3900,
            milestones=(1170, 2340, 3120),
            levels=6,
            rewind_steps=(0, 100, 400),
            replicates=2,
            dense_replicates=4,
            control_levels=(3, 6),
            control_rewind_step=400,
            sources={
                **PAPER.sources,
                **dict.fromkeys(("steps", "milestones"), _TWENTIETH),
                "levels": "ours: down to 26% of the weights",
                "rewind_steps": "ours: initialization, and two steps of the first epoch or so",
                "replicates": "half the paper's",
            },
        )
    if scale == "smoke":
        small = cifar10.setting("smoke")
        return dataclasses.replace(
            small,
            name=PAPER.name,
            title="Smoke test of the CIFAR-100 ResNet-18 protocol on synthetic images",
            source=SyntheticImages(train_count=512, test_count=128, classes=100, height=32, width=32, storage="raw"),
            classes=100,
            model="resnet18",
            lr_factor=5.0,
            weight_decay=5e-4,
            steps=8,
            milestones=(4, 6),
            rewind_steps=(0, 2),
            control_rewind_step=2,
            sources={**PAPER.sources, **{name: small.sources[name] for name in ("steps", "levels", "rewind_steps")}},
        )
    return PAPER
