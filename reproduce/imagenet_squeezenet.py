"""SqueezeNet on ImageNet as Frankle et al. 2019 train it, pruned once; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.experiments.setting import Setting
from sparselt.reproduce.imagenet_resnet50_stabilizing import EPOCH, FRANKLE, OURS, protocol

_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {"steps": 150 * EPOCH, "lr": 0.66, "last_lr": 6.6e-5},
    "mini": {"steps": 15 * EPOCH, "lr": 0.66, "last_lr": 6.6e-5},
    "smoke": {"lr": 0.001, "last_lr": 1e-7},
}
_REWIND = {"paper": (0, 10 * EPOCH), "mini": (0, EPOCH), "smoke": (0, 4)}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table, pruned once by 50% and rewound to epoch 10; `mini` a tenth of its
    steps, two replicates; `smoke` every stage on 512 synthetic images."""
    found = protocol(
        scale,
        "SqueezeNet",
        name="imagenet_squeezenet",
        model="squeezenet",
        optimizer="rmsprop",
        schedule="linear",
        milestones=(),
        warmup_steps=0,
        fraction=0.5,
        rewind_steps=_REWIND[scale],
        **_BY_SCALE[scale],
    )
    sources = {
        "model": "torchvision's SqueezeNet 1.0; 1,244,448 prunable weights",
        **found.sources,
        "optimizer": FRANKLE,
        "schedule": f"{FRANKLE}: from 0.66 to 6.6e-5; that it falls linearly is ours",
        "alpha": f"{OURS}: torch's default",
    }
    return dataclasses.replace(found, sources=sources)
