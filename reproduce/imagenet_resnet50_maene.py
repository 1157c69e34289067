"""ResNet-50 on ImageNet as Maene et al. 2021 train it, rewound to initialization at two learning rates."""

import dataclasses
from typing import Any

from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.rewind_to_init.options import RewindToInitOptions
from sparselt.experiments.setting import Setting
from sparselt.reproduce import imagenet_resnet50_stabilizing as frankle

_MAENE = "Maene et al. 2021, Why Lottery Tickets Win, the table of networks"


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table, pruned once to 30% of the weights; the lower rate, which is stable,
    is measured by the experiment `rewind_to_init`. `mini` a tenth of the steps, two replicates; `smoke` every stage on
    512 synthetic images."""
    values: dict[str, Any] = {"rewind_steps": (0,), "warmup_steps": 0, "weight_decay": 1e-5}
    found = frankle.protocol(scale, name="imagenet_resnet50_maene", **values)
    rate = found.lr / 4
    options = (
        ConnectivityOptions(heat_map=False),
        RewindToInitOptions(init_lr=rate, init_batch_sizes=(found.batch_size,), init_levels=1),
    )
    sources = {"model": "torchvision's ResNet-50; 25,502,912 prunable weights", **found.sources}
    if scale == "paper":
        sources |= dict.fromkeys(("batch_size", "steps", "lr", "milestones"), _MAENE)
    sources |= dict.fromkeys(("weight_decay", "levels", "fraction", "rewind_steps", "init_lr"), _MAENE)
    sources.pop("warmup_steps")
    return dataclasses.replace(
        found,
        title=found.title.replace("ResNet-50 protocol", "ResNet-50 protocol of Maene et al."),
        paper="Maene et al. 2021, Towards Understanding Iterative Magnitude Pruning: Why Lottery Tickets Win",
        options=options,
        sources=sources,
    )
