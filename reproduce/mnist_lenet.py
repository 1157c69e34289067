"""LeNet-300-100 on MNIST as Frankle et al. 2019 train it; a mini scale and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.data import MNIST, SyntheticImages
from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.imp.options import ImpOptions
from sparselt.experiments.setting import Setting
from sparselt.experiments.stability.options import StabilityOptions

_FRANKLE = "Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis, the table of networks"
_OURS = "ours; the paper's table does not say"

PAPER = Setting(
    name="mnist_lenet",
    scale="paper",
    title="Iterative magnitude pruning of LeNet-300-100 on MNIST",
    paper="Frankle et al. 2019, Stabilizing the Lottery Ticket Hypothesis",
    source=MNIST(),
    classes=10,
    channels=1,
    train_count=60_000,
    test_count=10_000,
    engine="resident",
    train_size=28,
    eval_size=28,
    model="lenet_300_100",
    initialization="glorot_normal",
    batch_size=60,
    steps=50_000,
    schedule="step",
    optimizer="adam",
    lr=12e-4,
    weight_decay=0.0,
    levels=16,
    rule="open_lth",
    rewind_steps=(0, 500),
    replicates=5,
    dense_replicates=12,
    control_levels=(4, 8, 12, 16),
    control_rewind_step=0,
    wins_at_init=True,
    options=(
        ImpOptions(variants=("random", "reinit")),
        ConnectivityOptions(instability_levels=(0, 8)),
        StabilityOptions(stability_levels=(8,), stability_rewind_steps=(0, 500)),
    ),
    differences=(
        "Weights are ranked globally; Frankle and Carbin 2019 rank them by layer and prune the last at half the rate.",
        "Pixels are standardized, where the authors' first code divides by 255; biases start as torch draws them.",
        "All 60,000 training images are trained on; Frankle and Carbin 2019 hold out 5,000 of them.",
    ),
    main_values={"instability_levels": (), "rewind_steps": (0,), "stability_rewind_steps": (0,)},
    sources={
        "model": "LeCun et al. 1998; 266,200 prunable weights",
        "initialization": "Frankle and Carbin 2019, section 2: Glorot normal",
        **dict.fromkeys(("batch_size", "steps", "schedule", "optimizer", "lr"), _FRANKLE),
        "weight_decay": f"{_FRANKLE} names none",
        "levels": f"{_OURS}: down to 2.8% of the weights",
        "fraction": "Frankle and Carbin 2019: 20% a level",
        "scope": f"{_OURS}: global, as for the other networks; Frankle and Carbin 2019 rank LeNet's weights by layer "
        "and prune the last layer at half the rate",
        "rule": "as in the authors' later code, open_lth",
        "rewind_steps": f"{_FRANKLE}: IMP wins from initialization; the early step, 1% of the training, is ours",
        "rewound_momentum": f"{_OURS}: a fresh optimizer, whose two averages start at zero",
        "replicates": _OURS,
        "dense_replicates": "ours: the matching threshold is known better, for 7 trainings more",
        "reshuffle": f"{_OURS}: one order for all levels; stability to data order trains a second copy in another",
        "control_levels": "ours: four densities",
        "path_points": "Paul et al. 2022, Fig. 2: positions 0.1, …, 0.9 and the ends",
        "stability_levels": "16.8% of the weights, as in the text of section 4 (16.7%)",
        "instability_levels": "ours: the dense network, and 16.8% of the weights",
    },
)

_MINI: dict[str, Any] = {
    "steps": 5000,
    "levels": 12,
    "rewind_steps": (0, 50),
    "replicates": 3,
    "dense_replicates": 6,
    "control_levels": (4, 8, 12),
    "options": (
        ImpOptions(variants=("random", "reinit")),
        ConnectivityOptions(instability_levels=(0, 8)),
        StabilityOptions(stability_levels=(8,), stability_rewind_steps=(0, 50)),
    ),
}
_SMOKE: dict[str, Any] = {
    "title": "Smoke test of the MNIST LeNet-300-100 protocol on synthetic images",
    "source": SyntheticImages(
        train_count=600, test_count=200, classes=10, height=28, width=28, channels=1, storage="raw"
    ),
    "train_count": 600,
    "test_count": 200,
    "steps": 30,
    "levels": 2,
    "rewind_steps": (0, 5),
    "replicates": 2,
    "dense_replicates": 2,
    "control_levels": (2,),
    "path_points": 5,
    "options": (
        ImpOptions(variants=("random", "reinit")),
        ConnectivityOptions(instability_levels=(0, 1)),
        StabilityOptions(stability_levels=(1,), stability_rewind_steps=(0, 5)),
    ),
    "main_values": {},
}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table; `mini` a tenth of its steps, three replicates, down to 6.9% of the
    weights; `smoke` every stage on 600 synthetic images of the same shape."""
    if scale == "paper":
        return PAPER
    return dataclasses.replace(PAPER, scale=scale, **(_MINI if scale == "mini" else _SMOKE))
