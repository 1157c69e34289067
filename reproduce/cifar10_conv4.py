"""Conv-4 on CIFAR-10 as Maene et al. 2021 train it, rewound to initialization; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.experiments.setting import Setting
from sparselt.reproduce import cifar10_resnet20_maene as resnet20

_MAENE = "Maene et al. 2021, Why Lottery Tickets Win, the table of networks"
_STEPS: dict[str, dict[str, Any]] = {
    "paper": {"steps": 29_250, "init_warmup_steps": (3900,)},
    "mini": {"steps": 624, "init_warmup_steps": (83,)},
    "smoke": {},
}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table: 75 epochs, 25 rounds, three replicates; `mini` 624 steps, four
    rounds, two replicates; `smoke` every stage on 512 synthetic images of the same shape."""
    base = resnet20.setting(scale).changed(
        model="conv4", lr=0.01, schedule="cosine", milestones=(), init_lr=0.01, **_STEPS[scale]
    )
    sources = {
        **base.sources,
        **dict.fromkeys(("lr", "schedule"), _MAENE),
        "model": "Conv-4 of Frankle and Carbin 2019; 2,425,024 prunable weights",
        "steps": f"{_MAENE}: 75 epochs" if scale == "paper" else "ours",
    }
    sources.pop("milestones")
    title = base.title.replace("ResNet-20", "Conv-4").replace("the protocol", "Conv-4 in the protocol")
    return dataclasses.replace(base, name="cifar10_conv4", title=title, sources=sources)
