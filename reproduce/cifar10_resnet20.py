"""ResNet-20 on CIFAR-10: the protocol of Paul et al. 2022, a mini scale for two CPU cores, and a smoke scale."""

import dataclasses

from sparselt.data import CIFAR10, SyntheticImages
from sparselt.experiments.adaptive.options import AdaptiveOptions
from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.flatness.options import FlatnessOptions
from sparselt.experiments.imp.options import VARIANTS, ImpOptions
from sparselt.experiments.landscape.options import LandscapeOptions
from sparselt.experiments.setting import Setting
from sparselt.experiments.siblings.options import SiblingsOptions

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
    options=(
        ImpOptions(variants=("random", "reinit", "one_shot")),
        ConnectivityOptions(instability_levels=(0, 8)),
        LandscapeOptions(landscape_levels=(0, 4, 8, 11)),
        AdaptiveOptions(adaptive_density=0.09, adaptive_rewind_step=2000, adaptive_images=10_000),
        SiblingsOptions(
            sibling_pretraining=(0, 390, 780, 1560, 3120),
            sibling_counts=(2, 4, 10),
            sibling_densities=(0.2, 0.1),
            sibling_retrained=(3120,),
            sibling_levels=(1, 3),
            sibling_iterative_counts=(4,),
        ),
        FlatnessOptions(
            flatness_levels=(0, 2, 4, 6, 8, 10, 12),
            flatness_images=1000,
            perturbation_level=6,
            perturbation_scales=(0.5, 1.0, 2.0),
        ),
    ),
    main={
        "variants": ("random", "reinit"),
        "instability_levels": (),
        "sibling_pretraining": (0, 390, 3120),
        "sibling_counts": (4,),
        "sibling_densities": (0.2,),
        "sibling_levels": (1,),
    },
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
        "instability_levels": "ours: the dense network, and 16.8% of the weights, as Linear Mode Connectivity has it",
        "landscape_levels": "ours: four of the levels of Paul et al. 2022, Fig. 7",
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
)

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
)
_SMOKE_NOTE = "a smoke test: every stage in minutes, no finding can be seen"


def setting(scale: str) -> Setting:
    """`paper` is the exact protocol; `mini` a hundredth of its steps, half its levels and replicates; `smoke` every
    stage on 512 synthetic images of the same shape."""
    if scale == "mini":
        return dataclasses.replace(
            PAPER,
            scale="mini",
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
            main={"instability_levels": (), "control_levels": (6,)},
            sources={
                **PAPER.sources,
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
            main={},
            sources={
                **PAPER.sources,
                **dict.fromkeys(("batch_size", "steps", "milestones", "levels", "rewind_steps"), _SMOKE_NOTE),
            },
        )
    return PAPER
