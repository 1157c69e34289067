"""Inception-v3 on ImageNet as Frankle et al. 2019 train it, pruned once; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.experiments.setting import Setting
from sparselt.reproduce.imagenet_resnet50_stabilizing import EPOCH, FRANKLE, protocol

_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {"steps": 171 * EPOCH, "lr": 0.03, "last_lr": 0.005, "train_size": 299, "eval_size": 299},
    "mini": {"steps": 17 * EPOCH, "lr": 0.03, "last_lr": 0.005, "train_size": 299, "eval_size": 299},
    "smoke": {"last_lr": 0.005, "train_size": 299, "eval_size": 299, "batch_size": 4, "steps": 6},
}
_REWIND = {"paper": (0, 6 * EPOCH), "mini": (0, 750), "smoke": (0, 2)}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table, pruned once by 70% and rewound to epoch 6; `mini` a tenth of its
    steps, two replicates; `smoke` every stage on 512 synthetic images."""
    found = protocol(
        scale,
        "Inception-v3",
        name="imagenet_inception_v3",
        model="inception_v3",
        schedule="linear",
        milestones=(),
        warmup_steps=0,
        rewind_steps=_REWIND[scale],
        **_BY_SCALE[scale],
    )
    sources = {
        "model": "torchvision's Inception-v3 with its auxiliary classifier; 27,123,040 prunable weights",
        **found.sources,
        "schedule": f"{FRANKLE}: from 0.03 to 0.005; that it falls linearly is ours",
        "train_size": "Szegedy et al. 2016: 299 pixels",
        "eval_size": "Szegedy et al. 2016: 299 pixels",
    }
    return dataclasses.replace(found, sources=sources)
