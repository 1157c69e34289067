"""ResNet-20 on CIFAR-10: the protocol of Paul et al. 2022, a mini scale for two CPU cores, and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.data import CIFAR10, SyntheticImages
from sparselt.experiments.adaptive.options import AdaptiveOptions
from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.flatness.options import FlatnessOptions
from sparselt.experiments.imp.options import VARIANTS, ImpOptions
from sparselt.experiments.landscape.options import LandscapeOptions
from sparselt.experiments.retraining.options import CHAINS, RetrainingOptions
from sparselt.experiments.setting import Setting
from sparselt.experiments.siblings.options import SiblingsOptions

_PAUL = "Paul et al. 2022, appendix C"
_OURS = "ours; the paper does not say"
_CODE = "as in lth_diet"  # the authors' code of Lottery Tickets on a Data Diet, 2022; that of Unmasking is not public

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
    initialization="kaiming_normal",
    norm_scale="uniform",
    batch_size=128,
    steps=62_400,
    schedule="step",
    lr=0.1,
    milestones=(31_200, 46_800),
    momentum=0.9,
    weight_decay=1e-4,
    precision="bfloat16",
    eval_precision="float32",
    levels=12,
    rule="open_lth",
    rewind_steps=(0, 250, 2000),
    level_0="rewound",
    replicates=4,
    reshuffle="lth_diet",
    control_levels=(3, 6, 9, 12),
    control_rewind_step=2000,
    options=(
        ImpOptions(variants=("random", "reinit", "one_shot")),
        ConnectivityOptions(instability_levels=(0, 8)),
        LandscapeOptions(landscape_levels=tuple(range(12))),
        AdaptiveOptions(adaptive_density=0.09, adaptive_rewind_step=2000, adaptive_images=10_000),
        SiblingsOptions(
            sibling_pretraining=(0, 390, 780, 1560, 3120),
            sibling_counts=(2, 4, 10),
            sibling_densities=(0.4, 0.2, 0.1, 0.05),
            sibling_retrained=(0, 3120),
            sibling_levels=(1, 3),
            sibling_iterative_counts=(4,),
        ),
        FlatnessOptions(
            flatness_levels=(0, 2, 4, 6, 8, 10, 12),
            flatness_images=1000,
            perturbation_level=6,
            perturbation_steps=(0, 250, 2000),
            perturbation_scales=(0.5, 1.0, 2.0),
        ),
        RetrainingOptions(retraining_chains=CHAINS, retraining_levels=11),
    ),
    main_values={
        "variants": ("random", "reinit"),
        "instability_levels": (),
        "sibling_pretraining": (0, 390, 3120),
        "sibling_counts": (4,),
        "sibling_densities": (0.2,),
        "sibling_levels": (1,),
    },
    sources={
        "model": "ResNet-20 of He et al. 2016 with projection shortcuts; 270,896 prunable weights",
        "initialization": f"{_CODE}, the authors' code of Lottery Tickets on a Data Diet (models/resnet_cifar.py), and "
        "open_lth (models/initializers.py)",
        "norm_scale": f"{_CODE} (models/resnet_cifar.py) and in open_lth (models/bn_initializers.py)",
        "padding": f"random crops after 4 pixels of zeros and random flips, {_CODE} (data/cifar.py)",
        "flip": f"{_CODE} (data/cifar.py)",
        "batch_size": _PAUL,
        "steps": _PAUL,
        "schedule": _PAUL,
        "lr": _PAUL,
        "milestones": _PAUL,
        "lr_factor": _PAUL,
        "momentum": _PAUL,
        "weight_decay": _PAUL,
        **dict.fromkeys(("warmup_steps", "nesterov", "decoupled_weight_decay"), f"{_CODE} (configs/lottery_test.yaml)"),
        "precision": "mixed precision as in lth_diet, which has float16 and scales the loss; bfloat16 needs no scaling",
        "eval_precision": f"{_CODE}, whose evaluation is outside mixed precision",
        "levels": _PAUL,
        "fraction": _PAUL,
        "scope": f"global, {_CODE} (pruning/sparse_global.py)",
        "rule": f"{_CODE} (pruning/sparse_global.py) and in open_lth, whose rule it is",
        "rewind_steps": _PAUL,
        "level_0": f"Paul et al. 2022, algorithm 1, line 4; {_CODE} (exps/lottery.py) and open_lth (lottery/runner.py)",
        "replicates": _PAUL,
        "reshuffle": f"{_CODE}, whose sampler has one seed for all replicates, although their seeds are independent",
        "rewound_momentum": f"a fresh optimizer whose clock stands at the rewind step, {_CODE} (exps/lottery.py)",
        "control_levels": "ours: four densities",
        "heat_map": "Paul et al. 2022, Fig. 2, right",
        "path_points": "Paul et al. 2022, Fig. 2: positions 0.1, …, 0.9 and the ends",
        "instability_levels": "ours: the dense network, and 16.8% of the weights, as Linear Mode Connectivity has it",
        "landscape_levels": "Paul et al. 2022, Fig. 7: all levels",
        "landscape_points": "Paul et al. 2022, Fig. 3: 51 × 51",
        "adaptive_density": "Paul et al. 2022, section 2.2: about 9%",
        "adaptive_rewind_step": f"the one that matches, {_PAUL}",
        "adaptive_images": "ours; a random subsample may serve, Paul et al. 2022, section 2.2",
        "sibling_pretraining": "ours: 0, 1, 2, 4 and 8 epochs; Movva et al. 2021 say a few",
        "sibling_counts": "up to 10, Movva et al. 2021",
        "sibling_densities": _OURS,
        "flatness_levels": _OURS,
        "perturbation_scales": "1 as in Paul et al. 2022, appendix D; half and twice that are ours",
    },
    differences=(
        "Initial weights, data order and crops have the distributions of the code, not its draws: the random numbers "
        "are others.",
        "Pixels are normalized by the mean and standard deviation of the training pixels, computed from the data; "
        "lth_diet has their first four digits, open_lth those of ImageNet.",
        "Pruned weights and their momentum are zero after every step; the code zeroes weights before each forward pass "
        "and lets their momentum run, which leaves the live weights the same.",
        "An incomplete last batch is dropped, as in lth_diet; open_lth trains on it.",
        "The number of weights to prune is rounded to six decimals before the ceiling, against floating point; at the "
        "levels of these networks this changes no count.",
    ),
)

OF_0_1_0: dict[str, Any] = {
    "initialization": "torch",
    "norm_scale": "ones",
    "eval_precision": "as_trained",
    "rule": "exact",
    "level_0": "uninterrupted",
    "reshuffle": "replicate",
}
"""Choices of version 0.1.0, which the smaller scales keep, so that what was stored at them is found."""
SOURCES_OF_OPEN_LTH = {
    name: f"{_OURS}: as in open_lth ({file})"
    for name, file in {
        "initialization": "models/initializers.py",
        "norm_scale": "models/bn_initializers.py",
        "padding": "datasets/cifar10.py",
        "flip": "datasets/cifar10.py",
        "precision": "foundations/hparams.py",
        "eval_precision": "foundations/hparams.py",
        "warmup_steps": "foundations/hparams.py",
        "nesterov": "foundations/hparams.py",
        "decoupled_weight_decay": "training/optimizers.py",
        "scope": "pruning/sparse_global.py",
        "rule": "pruning/sparse_global.py",
    }.items()
}
"""What other papers' settings share with open_lth."""
SOURCES_OF_0_1_0 = dict.fromkeys(OF_0_1_0, "ours: the choice of version 0.1.0; scale paper follows the authors' code")

_MINI = "ours: what two CPU cores do in less than three hours, all experiments together"
_OTHER_GRIDS = (
    *("instability_levels", "landscape_levels", "landscape_points", "adaptive_density", "adaptive_images"),
    *("sibling_pretraining", "sibling_counts", "sibling_densities", "flatness_levels", "perturbation_scales"),
)
_MINI_GRIDS = (
    ConnectivityOptions(instability_levels=(0, 4)),
    LandscapeOptions(landscape_levels=(3,), landscape_points=9),
    AdaptiveOptions(adaptive_density=0.3, adaptive_rewind_step=100, adaptive_images=1000),
    SiblingsOptions(sibling_pretraining=(0, 40, 100), sibling_overlap=2, sibling_retrained=(100,)),
    FlatnessOptions(flatness_levels=(0, 3, 6), flatness_images=256, perturbation_level=3, perturbation_scales=(1.0,)),
    RetrainingOptions(retraining_chains=("imp",), retraining_levels=3),
)
_SMOKE_GRIDS = (
    ImpOptions(variants=VARIANTS),
    ConnectivityOptions(instability_levels=(0, 1)),
    LandscapeOptions(landscape_levels=(1,), landscape_points=5),
    AdaptiveOptions(adaptive_density=0.6, adaptive_rewind_step=4, adaptive_images=64),
    SiblingsOptions(sibling_pretraining=(0, 4), sibling_overlap=2, sibling_densities=(0.5,), sibling_retrained=(4,)),
    FlatnessOptions(
        flatness_levels=(0, 1),
        flatness_images=32,
        flatness_eigenvalues=2,
        flatness_products=8,
        perturbation_scales=(1.0,),
    ),
    RetrainingOptions(retraining_chains=CHAINS, retraining_levels=1),
)
_SMOKE_NOTE = "a smoke test: every stage in minutes, no finding can be seen"


def setting(scale: str) -> Setting:
    """`paper` is the protocol of Paul et al. 2022 and the authors' code; docs/exact.md compares every value.

    `mini` has a hundredth of its steps, half its levels and replicates, `smoke` every stage on 512 synthetic images of
    the same shape; both keep the choices of version 0.1.0 (`OF_0_1_0`).
    """
    if scale == "mini":
        return dataclasses.replace(
            PAPER,
            scale="mini",
            **OF_0_1_0,
            differences=(),
            steps=624,
            milestones=(312, 468),
            levels=6,
            rewind_steps=(0, 40, 100),
            replicates=2,
            dense_replicates=4,
            control_levels=(3, 6),
            control_rewind_step=100,
            path_points=5,
            options=_MINI_GRIDS,
            main_values={"instability_levels": (), "control_levels": (6,)},
            sources={
                **PAPER.sources,
                **SOURCES_OF_0_1_0,
                **dict.fromkeys(_OTHER_GRIDS, _MINI),
                **dict.fromkeys(("steps", "milestones"), "a hundredth of the paper's: 1.6 epochs"),
                "path_points": "ours: the midpoint, where barriers peak, and one point on either side of it",
                "levels": "half the paper's",
                "rewind_steps": "ours: initialization, and two steps of the first epoch or so",
                "replicates": "half the paper's",
            },
        )
    if scale == "smoke":
        return dataclasses.replace(
            PAPER,
            scale="smoke",
            **OF_0_1_0,
            differences=(),
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
            options=_SMOKE_GRIDS,
            main_values={},
            sources={
                **PAPER.sources,
                **SOURCES_OF_0_1_0,
                **dict.fromkeys(("batch_size", "steps", "milestones", "levels", "rewind_steps"), _SMOKE_NOTE),
            },
        )
    return PAPER
