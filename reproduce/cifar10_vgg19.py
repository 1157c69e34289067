"""VGG-19 on CIFAR-10 as Frankle et al. 2019 train it, for stability; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.setting import Setting
from sparselt.experiments.stability.options import RATES, StabilityOptions
from sparselt.reproduce import cifar10_resnet20_stabilizing as resnet20

_OURS = "ours; the paper's table does not say"
_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {
        "title": "Stability of the subnetworks of VGG-19 on CIFAR-10",
        "batch_size": 64,
        "steps": 112_000,
        "milestones": (56_000, 84_000),
        "levels": 16,
        "rewind_steps": (0, 100, 1000),
        "control_levels": (4, 8, 12, 16),
        "control_rewind_step": 100,
        "options": (
            ConnectivityOptions(heat_map=False),
            StabilityOptions(
                stability_levels=(8,),
                stability_rewind_steps=(0, 100, 1000),
                stability_rates=RATES,
                low_lr=0.01,
                warmup_lr=0.1,
                warmup_lr_steps=10_000,
                stability_curves=True,
            ),
        ),
        "main_values": {
            "rewind_steps": (0, 100),
            "control_levels": (8,),
            "stability_rewind_steps": (0, 100),
            "stability_rates": ("standard",),
        },
    },
    "mini": {
        "title": "Stability of the subnetworks of VGG-19 on CIFAR-10",
        "batch_size": 64,
        "steps": 1120,
        "milestones": (560, 840),
        "rewind_steps": (0, 10, 100),
        "control_rewind_step": 10,
        "options": (
            ConnectivityOptions(heat_map=False),
            StabilityOptions(
                stability_levels=(4,),
                stability_rewind_steps=(0, 10, 100),
                stability_rates=RATES,
                low_lr=0.01,
                warmup_lr=0.1,
                warmup_lr_steps=100,
            ),
        ),
        "main_values": {"stability_rewind_steps": (0, 10), "stability_rates": ("standard",)},
    },
    "smoke": {
        "title": "Smoke test of VGG-19 in the protocol of Stabilizing on synthetic images",
        "batch_size": 16,
        "steps": 6,
        "milestones": (3, 4),
        "rewind_steps": (0, 2),
        "control_rewind_step": 2,
        "levels": 1,
        "control_levels": (1,),
        "options": (
            ConnectivityOptions(heat_map=False),
            StabilityOptions(
                stability_levels=(1,),
                stability_rewind_steps=(0, 2),
                stability_rates=("standard", "warmup"),
                warmup_lr=0.1,
                warmup_lr_steps=3,
            ),
        ),
    },
}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table; `mini` a hundredth of its steps, four levels, two replicates;
    `smoke` every stage on 512 synthetic images of the same shape."""
    base, values = resnet20.setting(scale), _BY_SCALE[scale]
    sources = {
        **base.sources,
        "model": "VGG-19 with batch norm and one linear layer; 20,024,000 prunable weights",
        "rewind_steps": f"{_OURS}; stability saturates at step 100",
        "stability_levels": f"{_OURS}; that of ResNet-20",
    }
    differences = base.differences
    if scale == "paper":
        differences += (
            "The classifier is pruned, as the paper says of all layers; open_lth leaves it dense by default, which is "
            "`--set model=vgg19_dense_classifier`.",
        )
    return dataclasses.replace(
        base, name="cifar10_vgg19", model="vgg19", sources=sources, differences=differences, **values
    )
