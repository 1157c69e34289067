"""ResNet-50 on ImageNet as Frankle et al. 2019 train it, pruned once; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.data import SyntheticImages
from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.setting import Setting
from sparselt.experiments.stability.options import StabilityOptions
from sparselt.reproduce import imagenet_resnet50 as unmasking

FRANKLE = "Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis, the table of networks"
OURS = "ours; the paper's table does not say"
EPOCH = 1251  # steps, at batches of 1,024

# What the networks of Frankle et al. on ImageNet share. The schedule is that of ResNet-50.
_PAPER: dict[str, Any] = {
    "batch_size": 1024,
    "steps": 90 * EPOCH,
    "schedule": "step",
    "lr": 0.4,
    "milestones": (30 * EPOCH, 60 * EPOCH, 80 * EPOCH),
    "warmup_steps": 5 * EPOCH,
    "momentum": 0.9,
    "weight_decay": 1e-4,
    "decoupled_weight_decay": False,
    "level_0": "uninterrupted",
    "levels": 1,
    "fraction": 0.7,
    "rewind_steps": (0, 4 * EPOCH),
    "replicates": 3,
    "control_levels": (1,),
}
_MINI = {
    "steps": 9 * EPOCH,
    "milestones": (3 * EPOCH, 6 * EPOCH, 8 * EPOCH),
    "warmup_steps": EPOCH // 2,
    "rewind_steps": (0, 500),
    "replicates": 2,
}
_SMOKE = {
    "source": SyntheticImages(train_count=512, test_count=64, classes=10, height=96, width=112, difficulty=0.2),
    "train_count": 512,
    "batch_size": 16,
    "steps": 12,
    "lr": 0.05,
    "milestones": (6, 10),
    "warmup_steps": 2,
    "rewind_steps": (0, 4),
    "replicates": 2,
}


def protocol(scale: str, network: str = "ResNet-50", **values: Any) -> Setting:
    """A network of Frankle et al. on ImageNet, by its name in titles. `values` replace those of ResNet-50.

    The controls stand at the last rewind step.
    """
    base = unmasking.setting(scale)
    values = {**_PAPER, **{"paper": {}, "mini": _MINI, "smoke": _SMOKE}[scale], **values}
    steps = values["rewind_steps"]
    values["control_rewind_step"] = max(steps)
    options = (
        ConnectivityOptions(heat_map=False),
        StabilityOptions(stability_levels=(values["levels"],), stability_rewind_steps=steps),
    )
    sources = {
        "train_size": "random resized crops; ours, the paper's table does not say",
        "eval_size": "a central crop; ours, the paper's table does not say",
        **dict.fromkeys(("batch_size", "steps", "lr", "momentum", "schedule", "milestones", "warmup_steps"), FRANKLE),
        **dict.fromkeys(("levels", "fraction", "rewind_steps"), FRANKLE),
        **dict.fromkeys(("rule", "eval_precision"), "as the settings of Paul et al. 2022; the paper does not say"),
        "initialization": "torchvision's own",
        "level_0": f"{FRANKLE}: the full network is trained once",
        **dict.fromkeys(("weight_decay", "precision", "replicates", "control_levels", "path_points"), OURS),
        "scope": f"global; {OURS}",
        "reshuffle": f"one order for all levels; {OURS}",
        "rewound_momentum": f"a fresh optimizer whose clock stands at the rewind step; {OURS}",
    }
    if scale != "paper":
        sources |= dict.fromkeys(("batch_size", "steps", "lr", "milestones", "warmup_steps", "rewind_steps"), "ours")
    return dataclasses.replace(
        base,
        title=base.title.replace("ResNet-50", network),
        paper="Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis",
        options=options,
        main_values={},
        differences=("What the paper's table leaves open is a default of ours, named as such in the protocol.",),
        sources=sources,
        **values,
    )


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table, pruned once by 70% and rewound to epoch 4; `mini` a tenth of its
    steps, two replicates; `smoke` every stage on 512 synthetic images."""
    found = protocol(scale, name="imagenet_resnet50_stabilizing")
    title = found.title.replace("ResNet-50 protocol", "ResNet-50 protocol of Stabilizing")
    sources = {"model": "torchvision's ResNet-50; 25,502,912 prunable weights", **found.sources}
    return dataclasses.replace(found, title=title, sources=sources)
