"""LeNet-300-100 on MNIST as Maene et al. 2021 train it, rewound to initialization; a mini and a smoke scale."""

import dataclasses
from typing import Any

from sparselt.experiments.connectivity.options import ConnectivityOptions
from sparselt.experiments.imp.options import ImpOptions
from sparselt.experiments.rewind_to_init.options import RewindToInitOptions
from sparselt.experiments.setting import Setting
from sparselt.reproduce import mnist_lenet

_MAENE = "Maene et al. 2021, Why Lottery Tickets Win, the table of networks"
_TEXT = "Maene et al. 2021"
_BY_SCALE: dict[str, dict[str, Any]] = {
    "paper": {"steps": 25_000, "levels": 25, "control_levels": (10, 20), "replicates": 3, "path_points": 20},
    "mini": {"steps": 2500, "levels": 12, "control_levels": (6, 12), "replicates": 3},
    "smoke": {},
}


def setting(scale: str) -> Setting:
    """`paper` is the protocol of the paper's table: 25 epochs, 25 rounds, three replicates; `mini` a tenth of the
    steps, twelve rounds; `smoke` every stage on 600 synthetic images of the same shape."""
    base, values = mnist_lenet.setting(scale), _BY_SCALE[scale]
    options = (
        ImpOptions(variants=("random", "reinit")),
        ConnectivityOptions(heat_map=False),
        RewindToInitOptions(
            init_lr=base.lr, init_batch_sizes=(base.batch_size,), init_levels=values.get("levels", base.levels)
        ),
    )
    sources = {name: text for name, text in base.sources.items() if hasattr(base, name)}
    sources |= dict.fromkeys(("batch_size", "steps", "schedule", "optimizer", "lr", "weight_decay"), _MAENE)
    sources |= {"scope": f"{_TEXT}: global", "rewind_steps": f"{_TEXT}: reset to initialization"}
    sources |= dict.fromkeys(("levels", "replicates"), f"{_TEXT}: 25 rounds, 3 seeds" if scale == "paper" else "ours")
    sources |= {"path_points": f"{_TEXT}: 20 points" if scale == "paper" else "ours", "control_levels": "ours"}
    return dataclasses.replace(
        base,
        name="mnist_lenet_maene",
        title=base.title.replace("Iterative magnitude pruning of", "Rewinding").replace(
            "on MNIST", "on MNIST to its initialization"
        ),
        paper="Maene et al. 2021, Towards Understanding Iterative Magnitude Pruning: Why Lottery Tickets Win",
        rewind_steps=(0,),
        control_rewind_step=0,
        dense_replicates=0,
        options=options,
        main_values={},
        sources=sources,
        **values,
    )
