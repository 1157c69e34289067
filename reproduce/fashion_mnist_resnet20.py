"""ResNets on Fashion-MNIST: 70,000 real images, in the protocol of Paul et al. 2022, on two CPU cores.

The papers train no ResNet on Fashion-MNIST. Values that are ours were chosen on 10,000 validation images of the
training set, with seed 0, before any test image was looked at.
"""

import dataclasses

from sparselt.data import FashionMNIST, SyntheticImages
from sparselt.experiments.adaptive.options import AdaptiveOptions
from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.flatness.options import FlatnessOptions
from sparselt.experiments.imp.options import VARIANTS, ImpOptions
from sparselt.experiments.landscape.options import LandscapeOptions
from sparselt.experiments.retraining.options import CHAINS, RetrainingOptions
from sparselt.experiments.rewind_to_init.options import RewindToInitOptions
from sparselt.experiments.setting import Setting
from sparselt.experiments.siblings.options import SiblingsOptions
from sparselt.experiments.stability.options import RATES, StabilityOptions

DEFAULT_SCALE = "mini"

_PAUL = "as Paul et al. 2022, appendix C, have it for CIFAR-10"
_CHOSEN = "ours, chosen on validation images: training is unstable to SGD noise at initialization, and then stable"
_OURS = "ours: what two CPU cores do in an hour, all experiments together"

MINI = Setting(
    name="fashion_mnist_resnet20",
    scale="mini",
    title="Iterative magnitude pruning of ResNet-8 on Fashion-MNIST",
    paper="Paul et al. 2022, Unmasking the Lottery Ticket Hypothesis (protocol, in miniature)",
    source=FashionMNIST(),
    classes=10,
    channels=1,
    train_count=60_000,
    test_count=10_000,
    engine="resident",
    train_size=28,
    eval_size=28,
    padding=2,
    flip=True,
    model="resnet8_wide",
    batch_size=64,
    steps=2000,
    schedule="step",
    lr=0.6,
    milestones=(1000, 1500),
    levels=6,
    fraction=0.36,
    rewind_steps=(0, 150),
    precision="bfloat16",
    eval_precision="float32",
    replicates=3,
    dense_replicates=6,
    control_levels=(4, 6),
    control_rewind_step=150,
    sparse_up_to=1.0,
    explored_seeds=(0,),
    options=(
        ImpOptions(variants=VARIANTS, variant_levels=4),
        ConnectivityOptions(instability_levels=(0, 4)),
        LandscapeOptions(landscape_levels=(1, 4), landscape_points=11),
        AdaptiveOptions(adaptive_density=0.09, adaptive_rewind_step=150, adaptive_images=2000),
        SiblingsOptions(
            sibling_pretraining=(0, 50, 400),
            sibling_overlap=2,
            sibling_counts=(4,),
            sibling_densities=(0.4, 0.2, 0.1, 0.05),
            sibling_retrained=(400,),
        ),
        StabilityOptions(
            stability_levels=(4,),
            stability_rewind_steps=(0, 150),
            stability_rates=RATES,
            low_lr=0.03,
            warmup_lr=0.6,
            warmup_lr_steps=1000,
        ),
        RewindToInitOptions(
            init_lr=0.4,
            init_batch_sizes=(32, 256),
            init_copies=True,
            init_levels=3,
            init_fraction=0.5,
            repulsion_strengths=(2.0, -1.0),
            repulsion_levels=3,
        ),
        RetrainingOptions(retraining_chains=CHAINS, retraining_levels=4),
        FlatnessOptions(
            flatness_levels=(0, 3, 6),
            flatness_images=512,
            perturbation_level=4,
            perturbation_steps=(0, 150),
            perturbation_scales=(1.0,),
        ),
    ),
    main_values={
        "variants": ("random", "reinit"),
        "control_levels": (6,),
        "instability_levels": (),
        "sibling_densities": (0.2,),
        "sibling_retrained": (400,),
        "stability_rates": ("standard",),
        "heat_map": False,
        "init_copies": False,
        "init_levels": 2,
        "repulsion_strengths": (),
    },
    sources={
        "model": f"{_OURS}; CIFAR-style ResNet, one block a stage, widths 16-32-64, first convolution of stride 2, "
        "77,072 prunable weights",
        **dict.fromkeys(("batch_size", "steps", "lr", "rewind_steps"), _CHOSEN),
        "milestones": f"÷10 at half and three quarters, {_PAUL}",
        "momentum": _PAUL,
        "weight_decay": _PAUL,
        "padding": "ours: shifts by up to 2 pixels, and flips",
        "flip": "ours: shifts by up to 2 pixels, and flips",
        "levels": f"{_OURS}: down to 6.9% of the weights",
        "fraction": "ours: 36%, two prunings of 20% at a time",
        "scope": "global, as in the authors' code",
        "precision": "ours: activations between layers in bfloat16, sums and weights in float32; faster on two cores",
        "eval_precision": "ours: errors, paths and planes in float32",
        "replicates": _OURS,
        "dense_replicates": "ours: the matching threshold is known better",
        "reshuffle": "one order for all levels, as in the authors' code; replicates independent",
        "rewound_momentum": "a fresh optimizer whose clock stands at the rewind step, as in the authors' code",
        "sparse_up_to": "ours: live weights alone are faster at every density of this network (docs/sparse-cpu.md)",
        "path_points": "Paul et al. 2022, Fig. 2: positions 0.1, …, 0.9 and the ends",
        "repulsion_strengths": "Maene et al. 2021",
    },
)

_SMOKE = (
    ImpOptions(variants=("random", "reinit")),
    ConnectivityOptions(instability_levels=(0, 1)),
    LandscapeOptions(landscape_levels=(1,), landscape_points=5),
    AdaptiveOptions(adaptive_density=0.6, adaptive_rewind_step=5, adaptive_images=100),
    SiblingsOptions(sibling_pretraining=(0, 5), sibling_overlap=2, sibling_densities=(0.5,), sibling_retrained=(5,)),
    StabilityOptions(stability_levels=(1,), stability_rewind_steps=(0, 5)),
    RewindToInitOptions(
        init_lr=0.1, init_batch_sizes=(32, 64), init_levels=2, repulsion_strengths=(2.0,), repulsion_levels=2
    ),
    RetrainingOptions(retraining_chains=("imp",), retraining_levels=1),
    FlatnessOptions(flatness_levels=(0, 1), flatness_images=64, flatness_eigenvalues=2, perturbation_scales=(1.0,)),
)


def setting(scale: str) -> Setting:
    """`mini` takes an hour on two CPU cores. `paper` is the same with ResNet-20, ten times the steps and levels of
    20%; `smoke` is every stage on 600 synthetic images of the same shape."""
    if scale == "paper":
        return dataclasses.replace(
            MINI,
            scale="paper",
            title="Iterative magnitude pruning of ResNet-20 on Fashion-MNIST",
            model="resnet20",
            steps=20_000,
            milestones=(10_000, 15_000),
            fraction=0.2,
            levels=12,
            rewind_steps=(0, 1500),
            control_levels=(4, 8, 12),
            control_rewind_step=1500,
            sparse_up_to=0.6,
            sources={**MINI.sources, "model": "ResNet-20 of He et al. 2016", "fraction": _PAUL, "levels": _PAUL},
        )
    if scale == "smoke":
        return dataclasses.replace(
            MINI,
            scale="smoke",
            title="Smoke test of the Fashion-MNIST ResNet protocol on synthetic images",
            source=SyntheticImages(
                train_count=600, test_count=200, classes=10, height=28, width=28, channels=1, storage="raw"
            ),
            train_count=600,
            test_count=200,
            steps=20,
            milestones=(10, 15),
            levels=2,
            rewind_steps=(0, 5),
            replicates=2,
            dense_replicates=2,
            control_levels=(2,),
            control_rewind_step=5,
            path_points=5,
            options=_SMOKE,
            main_values={},
        )
    return MINI
