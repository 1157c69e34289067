"""ResNet-20 on CIFAR-10 as Maene et al. 2021 train it, rewound to initialization; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.imp.options import ImpOptions
from sparselt.experiments.rewind_to_init.options import RewindToInitOptions
from sparselt.experiments.setting import Setting
from sparselt.reproduce import cifar10_resnet20 as unmasking

_MAENE = "Maene et al. 2021, Why Lottery Tickets Win, the table of networks"
_TEXT = "Maene et al. 2021"
_OURS = "ours"

# What differs from Paul et al. 2022 at every scale.
_COMMON: dict[str, Any] = {
    "name": "cifar10_resnet20_maene",
    "paper": "Maene et al. 2021, Towards Understanding Iterative Magnitude Pruning: Why Lottery Tickets Win",
    "weight_decay": 1e-5,
    "rewind_steps": (0,),
    "control_rewind_step": 0,
    "dense_replicates": 0,
}
_SOURCES = {
    **dict.fromkeys(("batch_size", "schedule", "lr", "lr_factor", "momentum", "weight_decay"), _MAENE),
    "rewind_steps": f"{_TEXT}: reset to initialization",
    "rewound_momentum": f"{_OURS}; at step 0 there is none",
    "level_0": f"{_OURS}; at step 0 both are the same",
    "reshuffle": f"{_OURS}: one order for all rounds; replicates independent",
    "init_lr": f"{_MAENE}: not scaled with the batch",
    "init_batch_sizes": f"{_TEXT}: 128 unstable, 512 half, 1024 and 2048 stable",
    "init_warmup_steps": f"{_TEXT}: linear over 10 epochs",
    "repulsion_strengths": f"{_TEXT}: λ = 2 repels, λ = -1 attracts",
}
_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {
        "title": "Rewinding ResNet-20 on CIFAR-10 to its initialization",
        "precision": "float32",
        "level_0": "uninterrupted",
        "reshuffle": "replicate",
        "steps": 33_150,
        "milestones": (21_840, 27_690),
        "levels": 25,
        "replicates": 3,
        "control_levels": (10, 20),
        "path_points": 20,
        "options": (
            ImpOptions(variants=("random", "reinit")),
            ConnectivityOptions(heat_map=False),
            RewindToInitOptions(
                init_lr=0.1,
                init_batch_sizes=(128, 512, 1024, 2048),
                init_copies=True,
                init_warmup_steps=(3900,),
                init_levels=25,
                repulsion_strengths=(2.0, -1.0),
                repulsion_levels=25,
            ),
        ),
        "main_values": {"init_batch_sizes": (128, 1024), "init_warmup_steps": (), "repulsion_strengths": ()},
    },
    "mini": {
        "title": "Rewinding ResNet-20 on CIFAR-10 to its initialization",
        "steps": 624,
        "milestones": (411, 521),
        "levels": 4,
        "control_levels": (4,),
        "options": (
            ConnectivityOptions(heat_map=False),
            RewindToInitOptions(
                init_lr=0.1,
                init_batch_sizes=(128, 512),
                init_warmup_steps=(73,),
                init_levels=4,
                repulsion_strengths=(2.0, -1.0),
                repulsion_levels=4,
            ),
        ),
        "main_values": {"init_warmup_steps": (), "repulsion_strengths": ()},
    },
    "smoke": {
        "title": "Smoke test of the protocol of Maene et al. on synthetic images",
        "milestones": (10, 13),
        "options": (
            ConnectivityOptions(heat_map=False),
            RewindToInitOptions(
                init_lr=0.1,
                init_batch_sizes=(64, 128),
                init_warmup_steps=(4,),
                init_levels=1,
                repulsion_strengths=(2.0, -1.0),
                repulsion_levels=1,
            ),
        ),
        "main_values": {},
    },
}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of ResNet-20: 85 epochs, 25 rounds, three replicates; what the paper does not say follows
    open_lth. `mini` has 624 steps, four rounds, two replicates; `smoke` every stage on 512 synthetic images of the same
    shape."""
    base, values = unmasking.setting(scale), _BY_SCALE[scale]
    of_paper = {name: text for name, text in unmasking.PAPER.sources.items() if hasattr(base, name)}
    note = f"{_MAENE}: 85 epochs, ÷10 at 56 and 71"
    if scale != "paper":
        note = f"{_OURS}: the {scale} scale of cifar10_resnet20, ÷10 at the same parts of it"
    full = scale == "paper"
    choices = {} if full else {**unmasking.SOURCES_OF_0_1_0, "precision": _OURS}
    sources = {
        **of_paper,
        **unmasking.SOURCES_OF_OPEN_LTH,
        **choices,
        **_SOURCES,
        **dict.fromkeys(("steps", "milestones"), note),
    }
    sources |= dict.fromkeys(("levels", "replicates"), f"{_TEXT}: 25 rounds, 3 seeds" if full else _OURS)
    sources |= {"path_points": f"{_TEXT}: 20 points" if full else _OURS, "control_levels": _OURS}
    return dataclasses.replace(base, **_COMMON, **values, sources=sources)
