"""ResNet-20 on CIFAR-10 as Frankle et al. 2019 train it, for stability; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.setting import Setting
from sparselt.experiments.stability.options import RATES, StabilityOptions
from sparselt.reproduce import cifar10_resnet20 as unmasking

_FRANKLE = "Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis, the table of networks"
_OURS = "ours"

# What differs from Paul et al. 2022 at every scale.
_COMMON: dict[str, Any] = {
    "name": "cifar10_resnet20_stabilizing",
    "paper": "Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis",
    "dense_replicates": 0,
}
_SOURCES = {
    **dict.fromkeys(("batch_size", "schedule", "lr", "lr_factor", "momentum"), _FRANKLE),
    **dict.fromkeys(("low_lr", "warmup_lr"), f"{_FRANKLE}: at these rates IMP wins from initialization"),
    "weight_decay": f"{_OURS}: that of Paul et al. 2022",
    "rewound_momentum": f"{_OURS}: that of Paul et al. 2022",
    "level_0": "Frankle et al. 2019: the network is trained on from the rewind step to the end, then pruned",
    "reshuffle": f"{_OURS}: one order for all levels; stability to data order trains a second copy in another",
    "stability_levels": "16.7% of the weights remaining, as in the text of section 4",
}
_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {
        "title": "Stability of the subnetworks of ResNet-20 on CIFAR-10",
        "precision": "float32",
        "level_0": "uninterrupted",
        "reshuffle": "replicate",
        "steps": 30_000,
        "milestones": (20_000, 25_000),
        "levels": 8,
        "rewind_steps": (0, 100, 250, 500, 1000, 2000),
        "replicates": 4,
        "control_levels": (2, 4, 6, 8),
        "control_rewind_step": 500,
        "options": (
            ConnectivityOptions(heat_map=False),
            StabilityOptions(
                stability_levels=(8,),
                stability_rewind_steps=(0, 100, 250, 500, 1000, 2000),
                stability_rates=RATES,
                low_lr=0.01,
                warmup_lr=0.03,
                warmup_lr_steps=20_000,
                stability_curves=True,
            ),
        ),
        "main_values": {
            "rewind_steps": (0, 500),
            "control_levels": (8,),
            "stability_rewind_steps": (0, 500),
            "stability_rates": ("standard",),
        },
    },
    "mini": {
        "title": "Stability of the subnetworks of ResNet-20 on CIFAR-10",
        "steps": 624,
        "milestones": (416, 520),
        "levels": 4,
        "rewind_steps": (0, 40, 100),
        "control_levels": (4,),
        "control_rewind_step": 100,
        "options": (
            ConnectivityOptions(heat_map=False),
            StabilityOptions(
                stability_levels=(4,),
                stability_rewind_steps=(0, 40, 100),
                stability_rates=RATES,
                low_lr=0.01,
                warmup_lr=0.03,
                warmup_lr_steps=416,
            ),
        ),
        "main_values": {"stability_rewind_steps": (0, 100), "stability_rates": ("standard",)},
    },
    "smoke": {
        "title": "Smoke test of the protocol of Stabilizing on synthetic images",
        "milestones": (10, 13),
        "options": (
            ConnectivityOptions(heat_map=False),
            StabilityOptions(
                stability_levels=(1,),
                stability_rewind_steps=(0, 4),
                stability_rates=RATES,
                low_lr=0.01,
                warmup_lr=0.03,
                warmup_lr_steps=10,
            ),
        ),
        "main_values": {},
    },
}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of ResNet-20, rewound to steps of ours; what the paper does not say follows open_lth, the
    first author's later code. `mini` has 624 steps, four levels, two replicates; `smoke` every stage on 512 synthetic
    images of the same shape."""
    base, values = unmasking.setting(scale), _BY_SCALE[scale]
    of_paper = {name: text for name, text in unmasking.PAPER.sources.items() if hasattr(base, name)}
    full = scale == "paper"
    note = _FRANKLE if full else f"{_OURS}: the {scale} scale of cifar10_resnet20, ÷10 at two thirds and 5/6"
    choices = {} if full else {**unmasking.SOURCES_OF_0_1_0, "precision": _OURS}
    sources = {
        **of_paper,
        **unmasking.SOURCES_OF_OPEN_LTH,
        **choices,
        **_SOURCES,
        **dict.fromkeys(("steps", "milestones"), note),
    }
    sources |= dict.fromkeys(("levels", "rewind_steps", "replicates", "control_levels"), _OURS)
    return dataclasses.replace(base, **_COMMON, **values, sources=sources)
