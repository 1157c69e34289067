"""ResNet-50 on ImageNet as Frankle et al. 2019 train it, pruned again and again and rewound to epoch 6."""

import dataclasses
from typing import Any

from sparselt.experiments.setting import Setting
from sparselt.reproduce import imagenet_resnet50_stabilizing as one_shot

_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {"rewind_steps": (0, 6 * one_shot.EPOCH), "levels": 7},
    "mini": {"levels": 4},
    "smoke": {"levels": 2},
}


def setting(scale: str) -> Setting:
    """`paper`: seven prunings of 20%, which leave 21% of the weights (the paper: 20%); `mini` four; `smoke` two."""
    values = _BY_SCALE[scale]
    found = one_shot.protocol(
        scale, name="imagenet_resnet50_iterative", fraction=0.2, control_levels=(values["levels"],), **values
    )
    sources = {"model": "torchvision's ResNet-50; 25,502,912 prunable weights", **found.sources}
    sources |= {"fraction": "ours: 20% a level, as for the other networks", "levels": "the paper: 20% of the weights"}
    return dataclasses.replace(found, sources=sources)
