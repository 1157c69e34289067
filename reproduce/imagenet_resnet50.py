"""ResNet-50 on ImageNet: the protocol of Paul et al. 2022, a mini scale, and a smoke scale on made-up images."""

import dataclasses

from sparselt.data import SyntheticImages
from sparselt.experiments.adaptive.options import AdaptiveOptions
from sparselt.experiments.flatness.options import FlatnessOptions
from sparselt.experiments.landscape.options import LandscapeOptions
from sparselt.experiments.setting import Setting
from sparselt.reproduce.cifar10_resnet20 import OF_0_1_0, SOURCES_OF_0_1_0

_PAUL = "Paul et al. 2022, appendix C"
_OURS = "ours; the paper does not say"
_CODE = "as in lth_diet, the authors' code for CIFAR"

PAPER = Setting(
    name="imagenet_resnet50",
    scale="paper",
    title="Iterative magnitude pruning of ResNet-50 on ImageNet",
    paper="Paul et al. 2022, Unmasking the Lottery Ticket Hypothesis",
    source=None,
    classes=1000,
    channels=3,
    train_count=1_281_167,
    test_count=50_000,
    engine="streaming",
    train_size=224,
    eval_size=224,
    flip=True,
    model="resnet50",
    batch_size=2048,
    micro_batches=2,
    steps=15_970,
    schedule="cosine",
    lr=2.048,
    warmup_steps=5000,
    momentum=0.875,
    weight_decay=5e-4,
    decoupled_weight_decay=True,
    precision="bfloat16",
    eval_precision="float32",
    threads=12,
    levels=12,
    rule="open_lth",
    rewind_steps=(0, 1250, 5000),
    level_0="rewound",
    replicates=4,
    control_levels=(3, 6, 9, 12),
    control_rewind_step=5000,
    options=(
        LandscapeOptions(landscape_levels=(1, 6, 11)),
        AdaptiveOptions(adaptive_density=0.09, adaptive_rewind_step=5000, adaptive_images=10_000),
        FlatnessOptions(
            flatness_levels=(0, 4, 8, 12), flatness_images=256, perturbation_level=6, perturbation_scales=(1.0,)
        ),
    ),
    main_values={"landscape_levels": ()},
    differences=("Paul et al. 2022 add techniques that speed up training and do not name them; here there are none.",),
    sources={
        "model": "torchvision's ResNet-50; 25,502,912 prunable weights",
        "initialization": f"{_OURS}: torchvision's own, which torch leaves",
        "norm_scale": f"{_OURS}: torchvision's",
        "batch_size": _PAUL,
        "micro_batches": "ours: bfloat16 activations take 43.8 MB an image, 90 GB for the batch, and half of it fits a "
        "GPU of 80 GB; batch norm sees 1,024 images",
        "steps": _PAUL,
        "schedule": _PAUL,
        "lr": _PAUL,
        "warmup_steps": _PAUL,
        "momentum": _PAUL,
        "weight_decay": _PAUL,
        "decoupled_weight_decay": f"{_PAUL}; each weight times 1 - (lr / peak lr) · decay, as in the authors' code",
        "train_size": f"{_OURS}: random resized crops of 224, without the Mosaic techniques that the authors add",
        "eval_size": f"{_OURS}: central crop of 224 from 256",
        "precision": _OURS,
        "eval_precision": _OURS,
        "levels": _PAUL,
        "fraction": _PAUL,
        "scope": f"global, {_CODE}",
        "rule": _CODE,
        "rewind_steps": _PAUL,
        "level_0": f"Paul et al. 2022, algorithm 1, line 4; {_CODE}",
        "replicates": _PAUL,
        "reshuffle": f"one order for all levels, {_CODE}; replicates independent, {_PAUL}",
        "rewound_momentum": f"a fresh optimizer whose clock stands at the rewind step, {_CODE}",
        "control_levels": "ours: four densities",
        "path_points": "Paul et al. 2022, Fig. 2: positions 0.1, …, 0.9 and the ends",
    },
)

_SMOKE_NOTE = "a smoke test: every stage in minutes, no finding can be seen"


def setting(scale: str) -> Setting:
    """`paper` is the protocol of Paul et al. 2022, without the techniques that they add and do not name; `mini` a tenth
    of its steps, half its levels, two replicates, on the same data; `smoke` every stage on 256 synthetic images, in
    minutes on two CPU cores. Both smaller scales keep the choices of version 0.1.0."""
    if scale == "mini":
        return dataclasses.replace(
            PAPER,
            scale="mini",
            **OF_0_1_0,
            differences=(),
            steps=1597,
            warmup_steps=500,
            levels=6,
            rewind_steps=(0, 125, 500),
            replicates=2,
            control_levels=(3, 6),
            control_rewind_step=500,
            options=(
                LandscapeOptions(landscape_levels=(3,), landscape_points=9),
                AdaptiveOptions(adaptive_density=0.3, adaptive_rewind_step=500, adaptive_images=2000),
                FlatnessOptions(
                    flatness_levels=(0, 3, 6), flatness_images=128, perturbation_level=3, perturbation_scales=(1.0,)
                ),
            ),
            sources={
                **PAPER.sources,
                **SOURCES_OF_0_1_0,
                "steps": "a tenth of the paper's",
                "levels": "half the paper's",
            },
        )
    if scale == "smoke":
        return dataclasses.replace(
            PAPER,
            scale="smoke",
            **OF_0_1_0,
            differences=(),
            title="Smoke test of the ImageNet ResNet-50 protocol on synthetic images",
            source=SyntheticImages(train_count=256, test_count=64, classes=10, height=96, width=112, difficulty=0.2),
            classes=10,
            train_count=256,
            test_count=64,
            train_size=32,
            eval_size=32,
            batch_size=16,
            micro_batches=1,
            steps=5,
            warmup_steps=2,
            lr=0.05,
            precision="float32",
            threads=2,
            levels=2,
            rewind_steps=(0, 2),
            replicates=2,
            control_levels=(2,),
            control_rewind_step=2,
            path_points=3,
            options=(
                LandscapeOptions(landscape_levels=(1,), landscape_points=4),
                AdaptiveOptions(adaptive_density=0.7, adaptive_rewind_step=2, adaptive_images=8),
                FlatnessOptions(
                    flatness_levels=(1,),
                    flatness_images=8,
                    flatness_eigenvalues=1,
                    flatness_products=2,
                    perturbation_scales=(1.0,),
                ),
            ),
            main_values={},
            sources={
                **PAPER.sources,
                **SOURCES_OF_0_1_0,
                **dict.fromkeys(("batch_size", "steps", "lr", "levels", "replicates"), _SMOKE_NOTE),
            },
        )
    return PAPER
