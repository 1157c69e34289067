"""A setting: all numbers of a protocol, as one frozen value."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Self, TypeVar

from sparselt.data import Source
from sparselt.data.sources import check_source
from sparselt.errors import SettingError
from sparselt.experiments.checks import (
    check_options_of_optimizer,
    check_rate_of_optimizer,
    check_room,
    check_sparse,
    check_square,
    check_values,
    check_weights_left,
    steps_and_levels_removed,
)
from sparselt.experiments.options import Options
from sparselt.experiments.values import Rule, assigned, nearest_value, parse, rules, typed, value
from sparselt.models import prunable_shapes, reason_against_live
from sparselt.models.initialization import Initialization, NormScale
from sparselt.optim import options_of_other_optimizers
from sparselt.scopes import Rule as PruningRule
from sparselt.scopes import Scope
from sparselt.training.live import reason_against
from sparselt.training.recipe import TECHNIQUES, Recipe, Sent
from sparselt.training.schedule import Schedule

Kind = TypeVar("Kind", bound=Options)

MOST_LEVELS = 1000
"""The most levels of pruning that a schedule may have."""

_LARGEST_SIDE = 4096
_MOST_POINTS = 1001
_MOST_REPLICATES = 1000


def _streaming(setting: "Setting") -> bool:
    return setting.engine == "streaming"


def _by_steps(setting: "Setting") -> bool:
    return setting.schedule == "step"


def _optimizer_has(name: str) -> Callable[["Setting"], bool]:
    """A function that says whether a setting's optimizer has this option."""
    return lambda setting: name not in options_of_other_optimizers(setting.optimizer)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The protocol of a run. A module of `reproduce/` fills it, with the source of each number in `sources`.

    Fields with a rule (`sparselt.experiments.values`) can be set by name, like those of `options`. The protocol of a
    run lists them in this order. Fields of `sparselt.training.recipe.Recipe` are documented there.

    Args:
        name, scale: `digits_resnet8`, `mini`.
        title, paper: for the report: a headline, and the paper (authors, year) with this protocol.
        source: the data set to write; None if the user must bring it (`--data`).
        options: for each experiment the values that it varies; experiments without them use the defaults.
        main_values: values under which `--experiments main` shows each paper's main finding.
        sources: the source of each number, by field name: the paper, else the authors' code, else ours.
        differences: what differs from paper and code besides the values of the setting, a sentence each.
        explored_seeds: seeds whose results were known when its values, or the rules of the report, were chosen. A run
            of one of them explores, a run of another seed confirms.
        wins_at_init: whether the paper says that IMP succeeds on this network when it rewinds to initialization. This
            decides which of the paper's findings the report judges.
        left_out: the steps and levels that `checked` removed from its values, because they lie past the end of the
            training or above the levels; such as `stability_levels 8`.
    """

    name: str
    scale: str
    title: str
    paper: str
    source: Source | None
    options: tuple[Options, ...] = ()
    main_values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    explored_seeds: tuple[int, ...] = ()
    wins_at_init: bool = False
    left_out: tuple[str, ...] = ()

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
        shown=lambda setting: setting.validation_count > 0,
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
        0, least=0, help="random shift by up to so many pixels", shown=lambda setting: not _streaming(setting)
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
        shown=lambda setting: _by_steps(setting) and bool(setting.milestones),
    )
    last_lr: float = value(
        0.0,
        omit_default=True,
        least=0,
        shown=lambda setting: setting.schedule == "linear",
        help="rate at the end of the training",
    )
    warmup_steps: int = value(0, least=0, step=True, help="steps over which the rate rises")
    optimizer: str = value(
        "sgd", omit_default=True, shown=lambda setting: setting.optimizer != "sgd", help="a module of `sparselt.optim`"
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
        shown=lambda setting: setting.eval_precision != "as_trained",
        help="precision of test errors, paths and planes; as_trained: that of the training",
    )
    levels: int = value(least=1, most=MOST_LEVELS, help="prunings")
    fraction: float = value(0.2, help="share of the live weights that each pruning removes")
    scope: Scope = value("global", help="weights are ranked all together, by layer, or by Erdős–Rényi-Kernel densities")
    rule: PruningRule = value(
        "exact",
        omit_default=True,
        shown=lambda setting: setting.rule != "exact",
        help="exact removes exactly the fraction, open_lth one weight more and all that tie with it, see "
        "`sparselt.magnitude_prune`",
    )
    criterion: str = value(
        "magnitude",
        omit_default=True,
        shown=lambda setting: setting.criterion != "magnitude",
        help="what a weight is worth, see `sparselt.criteria`; or a function of yours as package.module:function",
    )
    criterion_images: int = value(
        0,
        omit_default=True,
        least=0,
        at_most="train_count",
        shown=lambda setting: setting.criterion != "magnitude" or setting.criterion_images > 0,
        help="training images that a criterion scores weights on; 0: ten a class",
    )
    rewind_steps: tuple[int, ...] = value(step=True, help="steps to rewind to")
    rewound_momentum: Literal["zero", "restored"] = value(
        "zero", help="the momentum a rewound network starts with: zero, or that of the rewind step"
    )
    level_0: Literal["uninterrupted", "rewound"] = value(
        "uninterrupted",
        omit_default=True,
        shown=lambda setting: setting.level_0 != "uninterrupted",
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
        shown=lambda setting: setting.dense_replicates > setting.replicates,
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
        shown=lambda setting: setting.ranks > 1,
        help="processes that train each network together, each on its share of every batch",
    )
    sync_batch_norm: bool = value(
        False,
        omit_default=True,
        shown=lambda setting: setting.ranks > 1,
        help="batch norm takes the statistics of the whole batch, not those of each rank's share",
    )
    sent_gradients: Sent = value(
        "all",
        omit_default=True,
        shown=lambda setting: setting.ranks > 1,
        help="what ranks send each other: all gradients, or those of live weights",
    )
    sparse_up_to: float = value(
        0.0,
        omit_default=True,
        least=0,
        most=1,
        shown=lambda setting: setting.recipe.sparse_up_to > 0,
        help="on a CPU, networks of at most this density train on their live weights alone, see "
        "`sparselt.models.sparse_step`; 0: none, 1: all",
    )
    fused_norm: bool = value(
        False,
        omit_default=True,
        shown=lambda setting: setting.fused_norm,
        help="batch norm, addition and ReLU are one operation in training, see `sparselt.kernels.norm_act`",
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

    def option(self, kind: type[Kind]) -> Kind:
        """The options of an experiment: from `options`, or the default."""
        return next((options for options in self.options if isinstance(options, kind)), kind())

    def with_options(self, kinds: Iterable[type[Options]]) -> Self:
        """The setting with a value for each kind of options. Missing ones get their defaults."""
        missing = tuple(kind() for kind in kinds if not any(isinstance(options, kind) for options in self.options))
        return dataclasses.replace(self, options=self.options + missing)

    def with_source(self, source: Source) -> Self:
        """The setting on the data of another source, with its classes, counts, channels and, where images are kept in
        memory, its image size.

        Raises:
            DataError: not a source, see `sparselt.data.sources.check_source`.
            SettingError: images of another shape than [C, side, side], which a setting in memory cannot take.
        """
        check_source(source)
        changes = {name: getattr(source, name) for name in ("classes", "train_count", "test_count")}
        if self.engine == "resident":
            check_square(source)
            changes |= zip(("channels", "train_size", "eval_size"), source.image_shape, strict=True)
        return dataclasses.replace(self, source=source, **changes)

    def values(self) -> dict[str, tuple[Any, Any, Rule]]:
        """All values that can be set, by name, with type and rule: first the setting's, then those of its options."""
        return {
            name: (getattr(owner, name), kind, rule)
            for owner in (self, *self.options)
            for name, (kind, rule) in rules(owner).items()
        }

    def checked(self) -> Self:
        """The setting that a run takes: each value has its field's type, and its steps and levels exist.

        Steps and levels that the training does not have are removed and noted in `left_out`. If no control level is
        left, the last level takes its place. A `control_rewind_step` that is no rewind step is replaced by the last
        rewind step.

        Raises:
            SettingError: a value that cannot be run or has another type, named.
        """
        return self._typed()._within_training()

    def _typed(self) -> Self:
        return self._replaced({name: typed(name, item, kind) for name, (item, kind, _) in self.values().items()})

    def _within_training(self) -> Self:
        check_values(self)
        if self.control_rewind_step not in self.rewind_steps:
            return dataclasses.replace(self, control_rewind_step=max(self.rewind_steps)).checked()
        for options_of_one in self.options:
            options_of_one.check(self)
        levels = tuple(level for level in self.control_levels if level <= self.levels)
        if self.control_levels and self.levels and not levels:
            levels = (self.levels,)
        options = tuple(options_of_one.within(self) for options_of_one in self.options)
        checked = dataclasses.replace(self, control_levels=levels, options=options)
        left_out = dict.fromkeys([*self.left_out, *steps_and_levels_removed(self.values(), checked.values())])
        checked = dataclasses.replace(checked, left_out=tuple(left_out))
        self.check_weights_left("levels", self.levels, self.scope)
        for options_of_one in options:
            options_of_one.check_pruning(checked)
        return checked

    def check_weights_left(self, name: str, levels: int, scope: Scope) -> None:
        """Raises a SettingError if pruning `levels` times, the value of `name`, leaves no weight of the network."""
        check_weights_left(self, name, levels, scope)

    def with_values(self, assignments: Iterable[str]) -> Self:
        """The setting with values replaced, its own or its options', each given as `name=value`; steps may be written
        `500it` or `4ep`.

        Raises:
            SettingError: an unknown name (the nearest are offered), a value of another type, a step past the end.
        """
        values: dict[str, Any] = {}
        own_values = self.values()
        for assignment in assignments:
            name, text = assigned(assignment)
            if name in values:
                raise SettingError(f"--set {name} is given twice; expected one value")
            _, kind, rule = self._value_of(name, own_values)
            batch_size = max(1, values.get("batch_size", self.batch_size))
            trained_count = self.train_count - values.get("validation_count", self.validation_count)
            values[name] = parse(name, text, kind, rule, max(1, trained_count // batch_size))
        return self.changed(**values)

    def changed(self, **values: Any) -> Self:
        """The setting with values replaced, its own or its options'; `options` itself may be one of them.

        Raises:
            SettingError: an unknown name (the nearest are offered), a step past the end, a level above the last. Other
                values are checked by `checked`.
        """
        changed = self._replaced(values)
        check_room(changed, values)
        check_options_of_optimizer(changed, values)
        check_sparse(changed, values)
        check_rate_of_optimizer(self, values)
        title_is_stale = changed.model != self.model and changed.title == self.title
        return changed.retitled(f"model={changed.model}") if title_is_stale else changed

    def retitled(self, change: str) -> Self:
        """The setting with a change, such as `model=resnet20`, named in its title."""
        return dataclasses.replace(self, title=f"{self.title} (changed: {change})")

    def _replaced(self, values: Mapping[str, Any]) -> Self:
        of_setting = {name: item for name, item in values.items() if name in self.__dataclass_fields__}
        options = []
        for options_of_one in of_setting.pop("options", self.options):
            changes = {name: item for name, item in values.items() if name in rules(options_of_one)}
            options.append(dataclasses.replace(options_of_one, **changes))
        others = values.keys() - of_setting.keys() - {"options"}
        own_values = self.values() if others else {}
        for name in values:
            if name in others:
                self._value_of(name, own_values)  # raises for an unknown name
        return dataclasses.replace(self, options=tuple(options), **of_setting)

    def _value_of(self, name: str, values: Mapping[str, Any]) -> Any:
        if name not in values:
            raise SettingError(f"setting {self.name} has no value {name!r}{nearest_value(name, values)}")
        return values[name]
