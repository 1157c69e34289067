"""ResNet-18 on CIFAR-100: the protocol of Paul et al. 2022, a mini scale, and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.data import CIFAR100, SyntheticImages
from sparselt.experiments.adaptive.options import AdaptiveOptions
from sparselt.experiments.flatness.options import FlatnessOptions
from sparselt.experiments.landscape.options import LandscapeOptions
from sparselt.experiments.retraining.options import CHAINS, RetrainingOptions
from sparselt.experiments.setting import Setting
from sparselt.reproduce import cifar10_resnet20 as cifar10

_PAUL = "Paul et al. 2022, appendix C"

# What differs from CIFAR-10 at every scale.
_COMMON: dict[str, Any] = {
    "name": "cifar100_resnet18",
    "classes": 100,
    "model": "resnet18",
    "lr_factor": 5.0,
    "weight_decay": 5e-4,
}
_SOURCES = {
    "model": "ResNet-18 with a 3×3 first layer and no pooling, as in lth_diet (models/resnet.py, `low_res`); "
    "11,210,432 prunable weights",
    "lr_factor": _PAUL,
}
_OF_PAPER = {
    "initialization": "torchvision's with a new first layer, as in lth_diet (models/resnet.py, `low_res`)",
    "norm_scale": "torchvision's, as in lth_diet (models/resnet.py)",
    "landscape_levels": "Paul et al. 2022, Fig. 8: all levels",
}
_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {
        "title": "Iterative magnitude pruning of ResNet-18 on CIFAR-100",
        "source": CIFAR100(),
        "initialization": "low_res",
        "norm_scale": "ones",
        "steps": 78_125,
        "milestones": (23_438, 46_875, 62_500),
        "levels": 15,
        "rewind_steps": (0, 400, 3200),
        "control_levels": (4, 8, 11, 15),
        "control_rewind_step": 3200,
        "options": (
            LandscapeOptions(landscape_levels=tuple(range(15))),
            AdaptiveOptions(adaptive_density=0.09, adaptive_rewind_step=3200, adaptive_images=10_000),
            FlatnessOptions(
                flatness_levels=(0, 3, 6, 9, 12, 15),
                flatness_images=1000,
                perturbation_level=6,
                perturbation_steps=(0, 400, 3200),
                perturbation_scales=(0.5, 1.0, 2.0),
            ),
            RetrainingOptions(retraining_chains=CHAINS, retraining_levels=14),
        ),
        "main_values": {"landscape_levels": ()},
    },
    "mini": {
        "title": "Iterative magnitude pruning of ResNet-18 on CIFAR-100",
        "source": CIFAR100(),
        "steps": 3900,
        "milestones": (1170, 2340, 3120),
        "rewind_steps": (0, 100, 400),
        "control_rewind_step": 400,
        "options": (
            LandscapeOptions(landscape_levels=(3,), landscape_points=9),
            AdaptiveOptions(adaptive_density=0.3, adaptive_rewind_step=400, adaptive_images=1000),
            FlatnessOptions(
                flatness_levels=(0, 3, 6), flatness_images=256, perturbation_level=3, perturbation_scales=(1.0,)
            ),
            RetrainingOptions(retraining_chains=("imp",), retraining_levels=3),
        ),
    },
    "smoke": {
        "title": "Smoke test of the CIFAR-100 ResNet-18 protocol on synthetic images",
        "source": SyntheticImages(train_count=512, test_count=128, classes=100, height=32, width=32, storage="raw"),
        "steps": 8,
        "milestones": (4, 6),
        "rewind_steps": (0, 2),
        "control_rewind_step": 2,
        "options": (
            LandscapeOptions(landscape_levels=(1,), landscape_points=4),
            AdaptiveOptions(adaptive_density=0.6, adaptive_rewind_step=2, adaptive_images=32),
            FlatnessOptions(
                flatness_levels=(0, 1),
                flatness_images=16,
                flatness_eigenvalues=2,
                flatness_products=4,
                perturbation_scales=(1.0,),
            ),
            RetrainingOptions(retraining_chains=("imp",), retraining_levels=1),
        ),
    },
}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of Paul et al. 2022 and of the authors' code, as in `cifar10_resnet20`.

    `mini` has a twentieth of its steps (10 epochs), six levels and two replicates, for a GPU or a day of CPU cores;
    `smoke` has every stage on 512 synthetic images of the same shape.
    """
    base = cifar10.setting(scale)
    sources = {**base.sources, **_SOURCES, **(_OF_PAPER if scale == "paper" else {})}
    if scale == "mini":
        sources["levels"] = "ours: down to 26% of the weights"
        sources |= dict.fromkeys(("steps", "milestones"), "a twentieth of the paper's")
    return dataclasses.replace(base, **_COMMON, **_BY_SCALE[scale], sources=sources)
