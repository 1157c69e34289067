"""The values of a protocol that can be set by name, and what follows from them."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sparselt.experiments.values import value
from sparselt.models import prunable_shapes, reason_against_live
from sparselt.models.initialization import Initialization, NormScale
from sparselt.optim import options_of_other_optimizers
from sparselt.scopes import Rule as PruningRule
from sparselt.scopes import Scope
from sparselt.training.live import reason_against
from sparselt.training.recipe import TECHNIQUES, Recipe, Sent
from sparselt.training.schedule import Schedule

MOST_LEVELS = 1000
"""The most levels of pruning that a schedule may have."""

_LARGEST_SIDE = 4096
_MOST_POINTS = 1001
_MOST_REPLICATES = 1000


def _streaming(values: "ProtocolValues") -> bool:
    return values.engine == "streaming"


def _by_steps(values: "ProtocolValues") -> bool:
    return values.schedule == "step"


def _optimizer_has(name: str) -> Callable[["ProtocolValues"], bool]:
    """A function that says whether a setting's optimizer has this option."""
    return lambda values: name not in options_of_other_optimizers(values.optimizer)


@dataclass(frozen=True, kw_only=True)
class ProtocolValues:
    """The values of a protocol. Each has a rule (`sparselt.experiments.values`), with its help text and bounds.

    The protocol of a run lists them in this order. Fields of `sparselt.training.recipe.Recipe` are documented there.
    """

    classes: int = value(help="classes of the data", in_protocol=False)
    channels: int = value(help="channels of the images", in_protocol=False)
    train_count: int = value(help="training images", in_protocol=False)
    test_count: int = value(help="test images", in_protocol=False)
    engine: Literal["resident", "streaming"] = value(
        help="resident keeps decoded pixels in memory, streaming decodes JPEG in every epoch", in_protocol=False
    )
    validation_count: int = value(
        0,
        omit_default=True,
        least=0,
        at_most="train_count",
        shown=lambda values: values.validation_count > 0,
        help="training images that are held out, and evaluated on instead of the test images, to choose values by",
    )
    model: str = value(help="a name of `sparselt.models.MODELS`, or a function of yours as package.module:function")
    initialization: Initialization = value("torch", torch_default=True, help="see `sparselt.models.initialize_`")
    norm_scale: NormScale = value("ones", torch_default=True, help="batch-norm scales at initialization")
    techniques: Literal["none", "mild"] = value("none", help="a name of `sparselt.training.recipe.TECHNIQUES`")
    train_size: int = value(
        least=1, most=_LARGEST_SIDE, noun="pixels", help="side of the training crops (streaming) or images (resident)"
    )
    eval_size: int = value(least=1, most=_LARGEST_SIDE, noun="pixels", help="side of the centre crop", shown=_streaming)
    eval_ratio: float = value(224 / 256, help="crop side over image side", shown=_streaming)
    eval_interpolation: Literal["bilinear", "area"] = value(
        "bilinear", help="how the crop is resized, see `sparselt.data.CenterCrop`", shown=_streaming
    )
    padding: int = value(
        0, least=0, help="random shift by up to so many pixels", shown=lambda values: not _streaming(values)
    )
    flip: bool = value(False, help="random mirror image")
    batch_size: int = value(least=1, help="images a step")
    micro_batches: int = value(1, least=1, help="parts that a batch is computed in, where memory is short")
    compile: bool = value(False, help="train through torch.compile")
    steps: int = value(least=1, step=True, help="optimizer steps of a full training")
    schedule: Literal["step", "cosine", "linear"] = value(help="how the learning rate falls")
    lr: float = value(above=0, help="peak learning rate")
    milestones: tuple[int, ...] = value((), step=True, help="steps at which the rate falls", shown=_by_steps)
    lr_factor: float = value(
        10.0,
        above=0,
        help="what the rate is divided by at each milestone",
        shown=lambda values: _by_steps(values) and bool(values.milestones),
    )
    last_lr: float = value(
        0.0,
        omit_default=True,
        least=0,
        shown=lambda values: values.schedule == "linear",
        help="rate at the end of the training",
    )
    warmup_steps: int = value(0, least=0, step=True, help="steps over which the rate rises")
    optimizer: str = value(
        "sgd", omit_default=True, shown=lambda values: values.optimizer != "sgd", help="a module of `sparselt.optim`"
    )
    momentum: float = value(0.9, least=0, below=1, shown=_optimizer_has("momentum"), help="momentum of SGD and RMSprop")
    weight_decay: float = value(1e-4, least=0, help="weight decay of the optimizer")
    nesterov: bool = value(
        False, torch_default=True, shown=_optimizer_has("nesterov"), help="Nesterov's momentum, of SGD"
    )
    decoupled_weight_decay: bool = value(
        False,
        shown=_optimizer_has("decoupled_weight_decay"),
        help="SGD decays by the rate over its peak, see `sparselt.MaskedSGD`",
    )
    betas: tuple[float, float] = value(
        (0.9, 0.999),
        torch_default=True,
        omit_default=True,
        least=0,
        below=1,
        equal=True,
        shown=_optimizer_has("betas"),
        help="of Adam's averages",
    )
    eps: float = value(
        1e-8,
        torch_default=True,
        omit_default=True,
        least=0,
        shown=_optimizer_has("eps"),
        help="of the divisor of Adam and RMSprop",
    )
    alpha: float = value(
        0.99,
        torch_default=True,
        omit_default=True,
        least=0,
        below=1,
        shown=_optimizer_has("alpha"),
        help="of RMSprop's average of squares",
    )
    centered: bool = value(
        False,
        torch_default=True,
        omit_default=True,
        shown=_optimizer_has("centered"),
        help="RMSprop divides by the standard deviation",
    )
    precision: Literal["float32", "bfloat16"] = value(
        "float32", torch_default=True, help="float32, or bfloat16 autocast"
    )
    eval_precision: Literal["as_trained", "float32", "bfloat16"] = value(
        "as_trained",
        omit_default=True,
        shown=lambda values: values.eval_precision != "as_trained",
        help="precision of test errors, paths and planes; as_trained: that of the training",
    )
    levels: int = value(least=1, most=MOST_LEVELS, help="prunings")
    fraction: float = value(0.2, help="share of the live weights that each pruning removes")
    scope: Scope = value("global", help="weights are ranked all together, by layer, or by Erdős–Rényi-Kernel densities")
    rule: PruningRule = value(
        "exact",
        omit_default=True,
        shown=lambda values: values.rule != "exact",
        help="exact removes exactly the fraction, open_lth one weight more and all that tie with it, see "
        "`sparselt.magnitude_prune`",
    )
    criterion: str = value(
        "magnitude",
        omit_default=True,
        shown=lambda values: values.criterion != "magnitude",
        help="what a weight is worth, see `sparselt.criteria`; or a function of yours as package.module:function",
    )
    criterion_images: int = value(
        0,
        omit_default=True,
        least=0,
        at_most="train_count",
        shown=lambda values: values.criterion != "magnitude" or values.criterion_images > 0,
        help="training images that a criterion scores weights on; 0: ten a class",
    )
    rewind_steps: tuple[int, ...] = value(step=True, help="steps to rewind to")
    rewound_momentum: Literal["zero", "restored"] = value(
        "zero", help="the momentum a rewound network starts with: zero, or that of the rewind step"
    )
    level_0: Literal["uninterrupted", "rewound"] = value(
        "uninterrupted",
        omit_default=True,
        shown=lambda values: values.level_0 != "uninterrupted",
        help="the network that level 1 prunes: the dense training, which all rewind steps share (uninterrupted), or "
        "the dense network trained on from each rewind step as the tickets are (rewound), which costs one more "
        "training for each rewind step above 0 and replicate; at rewind step 0 the two are the same",
    )
    replicates: int = value(
        least=1, most=_MOST_REPLICATES, help="independent repetitions, from different initializations"
    )
    # A standard deviation from 4 runs is uncertain by 41%, from 12 by 21%, and a dense training is one of dozens.
    dense_replicates: int = value(
        0,
        least=0,
        most=_MOST_REPLICATES,
        help="dense trainings for the matching threshold, if more than replicates",
        shown=lambda values: values.dense_replicates > values.replicates,
    )
    reshuffle: Literal["never", "lth_diet", "replicate", "level"] = value(
        "replicate",
        help="data order and augmentation differ between replicates and are one for all levels of each (replicate), "
        "are the same in all trainings (never), differ in every one (level, as in open_lth); or the order is the same "
        "in all trainings, and augmentation differs between replicates (lth_diet)",
    )
    control_levels: tuple[int, ...] = value(
        least=1, levels_above=0, help="levels of the two controls; if all are above `levels`, `levels` itself"
    )
    control_rewind_step: int = value(step=True, help="the rewind step whose masks the controls take")
    path_points: int = value(11, least=3, most=_MOST_POINTS, help="points on each linear path, with both ends")
    threads: int = value(1, least=1, help="CPU threads of each training; with several ranks, of each of these")
    ranks: int = value(
        1,
        omit_default=True,
        least=1,
        shown=lambda values: values.ranks > 1,
        help="processes that train each network together, each on its share of every batch",
    )
    sync_batch_norm: bool = value(
        False,
        omit_default=True,
        shown=lambda values: values.ranks > 1,
        help="batch norm takes the statistics of the whole batch, not those of each rank's share",
    )
    sent_gradients: Sent = value(
        "all",
        omit_default=True,
        shown=lambda values: values.ranks > 1,
        help="what ranks send each other: all gradients, or those of live weights",
    )
    sparse_up_to: float = value(
        0.0,
        omit_default=True,
        least=0,
        most=1,
        shown=lambda values: values.recipe.sparse_up_to > 0,
        help="on a CPU, networks of at most this density train on their live weights alone, see "
        "`sparselt.models.sparse_step`; 0: none, 1: all",
    )
    fused_norm: bool = value(
        False,
        omit_default=True,
        shown=lambda values: values.fused_norm,
        help="batch norm, addition and ReLU are one operation in training, see `sparselt.kernels.norm_act`",
    )
    winograd: bool = value(
        False,
        omit_default=True,
        shown=lambda values: values.winograd,
        help="on a CPU, 3×3 convolutions take Winograd's algorithm where it pays, see `sparselt.kernels.winograd`",
    )
    seed: int = value(0, least=0, help="everything random follows from it")

    @cached_property
    def recipe(self) -> Recipe:
        """The hyperparameters of each training."""
        names = {f.name for f in dataclasses.fields(Recipe)} - {"schedule", "techniques"}
        names -= options_of_other_optimizers(self.optimizer)
        schedule = Schedule(self.schedule, self.lr, self.milestones, self.lr_factor, self.warmup_steps, self.last_lr)
        values = {name: getattr(self, name) for name in names}
        recipe = Recipe(**values, schedule=schedule, techniques=TECHNIQUES[self.techniques])
        return dataclasses.replace(recipe, sparse_up_to=0.0) if self.reason_against_sparse_up_to else recipe

    @cached_property
    def reason_against_sparse_up_to(self) -> str:
        """Why trainings cannot compute live weights alone, as `sparse_up_to` asks; empty if they can, or if it is 0."""
        if not self.sparse_up_to:
            return ""
        against_recipe = reason_against(TECHNIQUES[self.techniques], self.micro_batches, self.ranks, self.compile)
        return against_recipe or reason_against_live(self.model, self.classes, self.channels)

    @property
    def eval_dtype(self) -> Literal["float32", "bfloat16"]:
        """The precision of test errors, paths and planes."""
        return self.precision if self.eval_precision == "as_trained" else self.eval_precision

    @property
    def trained_count(self) -> int:
        """The training images that are not held out."""
        return self.train_count - self.validation_count

    @property
    def evaluated_count(self) -> int:
        """The images that errors are measured on."""
        return self.validation_count or self.test_count

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in an epoch."""
        return self.trained_count // self.batch_size

    @property
    def prunable_weights(self) -> list[int]:
        """The number of weights of each prunable layer."""
        return [math.prod(s) for s in prunable_shapes(self.model, self.classes, self.channels).values()]
