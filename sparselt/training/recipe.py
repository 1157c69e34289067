"""The values that decide the result of one training."""

import dataclasses
import hashlib
from dataclasses import dataclass, field
from typing import Literal

from sparselt.errors import SettingError
from sparselt.models.initialization import Initialization, NormScale
from sparselt.optim import check_optimizer, options_of_other_optimizers
from sparselt.training.schedule import Schedule

Sent = Literal["all", "live"]


@dataclass(frozen=True)
class Techniques:
    """Techniques that a recipe adds to plain training. The default adds none.

    Args:
        bce: the loss is binary cross-entropy (`sparselt.training.techniques.smoothed_bce`) instead of cross-entropy,
            and the classifier's bias starts at -ln(classes).
        label_smoothing: probability moved from the label to all classes equally, with either loss.
        progressive_resizing: images shrink to half their size at first, see `training_side`.
        ema_half_life: half-life in steps of the average of weights, see
            `sparselt.training.techniques.WeightAverage`; 0: no average.
    """

    bce: bool = False
    label_smoothing: float = 0.0
    progressive_resizing: bool = False
    ema_half_life: int = 0


PLAIN = Techniques()
TECHNIQUES = {
    "none": PLAIN,
    "mild": Techniques(bce=True, label_smoothing=0.08, progressive_resizing=True, ema_half_life=100),
}


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of one training.

    Args:
        model: a name of `sparselt.models.MODELS`.
        batch_size: images a step.
        steps: optimizer steps of a full training, from initialization.
        schedule: learning rate by step.
        optimizer: a module of `sparselt.optim`. Options that it does not have (`sparselt.optim.RECIPE_OPTIONS`) keep
            their default.
        momentum, weight_decay, nesterov: as in torch's optimizers that have them.
        decoupled_weight_decay: see `sparselt.MaskedSGD`; the ImageNet protocol of Paul et al. 2022.
        precision: `float32`, or `bfloat16` autocast.
        threads: CPU threads of the training. Part of its identity, because they decide the order of sums.
        initialization, norm_scale: see `sparselt.models.initialize_`.
        techniques: additions to plain training, see `sparselt.training.techniques`.
        micro_batches: number of equal parts in which a batch is computed, one after the other, to save memory. The
            gradient is that of the whole batch; each part has its own batch-norm statistics.
        rewound_momentum: a rewound network starts with momentum `zero` (as the authors' code does) or `restored`. This
            holds for all state of the optimizer, with the number of steps that it counts.
        compile: train through `torch.compile`. It rounds differently, so it is part of the training's identity. On a
            CPU it gains nothing: the step is 1.01 times as fast for ResNet-20 at 128 images in float32, 0.89 in
            bfloat16, 0.97 and 0.93 for the digits recipe (one thread, EPYC, torch 2.15). Not measured on a GPU. A
            cohort compares its compiled networks before they train (`sparselt.training.joining.check_same_bits`);
            networks that would round differently are trained one at a time.
        betas, eps, alpha, centered: as in torch's optimizers that have them.
        ranks: processes that train the network together, each on its share of every batch; see
            `sparselt.training.ranks`. Part of the identity, because it decides the order of sums and what batch norm
            sees.
        sync_batch_norm: batch norm takes the statistics of the whole batch; otherwise each rank those of its share, and
            the running ones are those of rank 0.
        sent_gradients: what the ranks send each other in a step, see `sparselt.training.ranks.Ranks`.
        sparse_up_to: a training whose mask has at most this density computes its live weights alone, on a CPU, see
            `sparselt.training.live`. It rounds differently, so it is part of the training's identity. 0: never.
        fused_norm: batch norm, addition and ReLU are one operation (`sparselt.kernels.norm_act`) in training. It rounds
            differently, so it is part of the training's identity.
        winograd: 3×3 convolutions on a CPU take Winograd's algorithm where it pays, see `sparselt.winograd_`. It rounds
            differently, so it is part of the training's identity.

    Raises:
        SettingError: there is no optimizer of that name, or it does not have an option that is given.
    """

    model: str
    batch_size: int
    steps: int
    schedule: Schedule
    momentum: float = 0.9
    weight_decay: float = 1e-4
    nesterov: bool = False
    decoupled_weight_decay: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    threads: int = 1
    initialization: Initialization = "torch"
    norm_scale: NormScale = "ones"
    techniques: Techniques = PLAIN
    micro_batches: int = 1
    rewound_momentum: Literal["zero", "restored"] = "zero"
    compile: bool = False
    optimizer: str = field(default="sgd", metadata={"omit_default": True})
    betas: tuple[float, float] = field(default=(0.9, 0.999), metadata={"omit_default": True})
    eps: float = field(default=1e-8, metadata={"omit_default": True})
    alpha: float = field(default=0.99, metadata={"omit_default": True})
    centered: bool = field(default=False, metadata={"omit_default": True})
    ranks: int = field(default=1, metadata={"omit_default": True})
    sync_batch_norm: bool = field(default=False, metadata={"omit_default": True})
    sent_gradients: Sent = field(default="all", metadata={"omit_default": True})
    sparse_up_to: float = field(default=0.0, metadata={"omit_default": True})
    fused_norm: bool = field(default=False, metadata={"omit_default": True})
    winograd: bool = field(default=False, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer)
        others = options_of_other_optimizers(self.optimizer)
        for f in dataclasses.fields(self):
            if f.name in others and getattr(self, f.name) != f.default:
                raise SettingError(f"{f.name} is given, but {self.optimizer} has no such option: leave it out")


@dataclass(frozen=True)
class Seeds:
    """Separate seeds, so that two runs can differ in one of them alone."""

    initialization: int
    order: int
    augmentation: int


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends only on `parts`: derive_seed(run seed, "order", replicate)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def training_side(side: int, step: int, steps: int) -> int:
    """The side (pixels) of the training images at `step`, at most `side`, a multiple of 4 below that.

    Half of `side` for the first half of the training, `side` for the last fifth, growing linearly between (progressive
    resizing, Howard 2018; fractions and rounding as MosaicML's Composer has them by default).
    """
    progress = (step / steps - 0.5) / 0.3
    scale = 0.5 + 0.5 * min(1.0, max(0.0, progress))
    return side if scale == 1 else min(side, round(side * scale / 4) * 4)
