"""Checks of a setting's values against each other. Each raises a SettingError that names the value."""

import math
import numbers
import re
from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Any

from sparselt.data import Source
from sparselt.errors import SettingError
from sparselt.experiments.trials import check_criterion
from sparselt.experiments.values import Rule
from sparselt.models import check_model, least_weights, outline, prunable_shapes
from sparselt.optim import RECIPE_OPTIONS, check_optimizer, options_of_other_optimizers
from sparselt.scopes import Scope, check_fraction, check_rule, weights_left
from sparselt.training.recipe import TECHNIQUES, training_side

if TYPE_CHECKING:
    from sparselt.experiments.setting import Setting

NAME = re.compile(r"[A-Za-z0-9_-]+")
"""Of a setting, a scale, an experiment: folders and files are called by them."""


def check_values(setting: "Setting") -> None:
    """Raises a SettingError for a value that cannot be run. Options of experiments check themselves."""
    for what in ("name", "scale"):
        if not NAME.fullmatch(str(getattr(setting, what))):
            raise SettingError(f"the setting's {what} is {getattr(setting, what)!r}; expected letters, digits, _ and -")
    check_fraction(setting.fraction)
    for name, (found, _, rule) in setting.values().items():
        rule.check(name, found)
    if setting.padding > setting.train_size:
        raise SettingError(f"padding is {setting.padding}, more than the image's {setting.train_size} pixels")
    if setting.criterion != "magnitude":
        shape = (setting.classes, setting.channels, setting.train_size)
        check_criterion(setting.criterion, setting.model, *shape, TECHNIQUES[setting.techniques])
        if setting.rule != "exact":
            raise SettingError(
                f"rule is {setting.rule!r}, but criterion {setting.criterion!r} has rule 'exact' only; give both"
            )
    check_rule(setting.rule, setting.scope)
    check_options_of_optimizer(setting, ())
    _check_schedule(setting)
    if setting.fused_norm:
        _check_fused(setting)
    if setting.winograd:
        _check_winograd(setting)
    if setting.compile and TECHNIQUES[setting.techniques].progressive_resizing:
        raise SettingError(
            f"compile is true, but techniques={setting.techniques} trains at growing image sizes, and each size would "
            "be compiled anew; give compile=false"
        )
    sides = [setting.train_size, setting.eval_size]
    if TECHNIQUES[setting.techniques].progressive_resizing:
        sides.append(training_side(setting.train_size, 0, setting.steps))
    for side in sides:
        check_model(setting.model, setting.channels, side, setting.classes)
    if setting.batch_size > setting.trained_count:
        raise SettingError(f"batch_size is {setting.batch_size}, more than the {setting.trained_count} training images")
    if setting.validation_count and setting.engine == "streaming":
        raise SettingError(
            f"validation_count is {setting.validation_count}, but images are held out in memory only, and "
            f"{setting.name} streams them; expected 0"
        )
    _check_ranks(setting)
    images = setting.batch_size // setting.ranks
    if images % setting.micro_batches:
        raise SettingError(f"micro_batches is {setting.micro_batches}: {images} images are no multiple of it")
    if not setting.rewind_steps:
        raise SettingError("rewind_steps is empty; expected at least one step, such as 0")
    for step in setting.rewind_steps:
        check_rewind_step(step, setting.steps)


def check_weights_left(setting: "Setting", name: str, levels: int, scope: Scope) -> None:
    """Raises a SettingError if pruning `levels` times, the value of `name`, leaves no weight of the network."""
    if weights_left([least_weights(setting.model)], setting.fraction, levels, scope):
        return  # in one layer, whatever is left of the others
    sizes = setting.prunable_weights
    if weights_left(sizes, setting.fraction, levels, scope, setting.rule if scope == "global" else "exact") < 1:
        raise SettingError(
            f"{name} is {levels}: pruning {setting.fraction:.4g} of the weights so often leaves none of the "
            f"{sum(sizes):,} of {setting.model}; expected fewer levels or a smaller fraction"
        )


def check_options_of_optimizer(setting: "Setting", given: Container[str]) -> None:
    """Raises a SettingError if an option that the optimizer does not have is among `given`, or is true."""
    check_optimizer(setting.optimizer)
    for name in sorted(options_of_other_optimizers(setting.optimizer)):
        found = getattr(setting, name)
        if found is True or (name in given and found is not False):
            off = f"set {name}=false" if found is True else f"leave {name} out"
            has = ", ".join(RECIPE_OPTIONS[setting.optimizer])
            raise SettingError(f"{name} is {found}, which {setting.optimizer} does not have: {off}; it has {has}")


def check_rate_of_optimizer(setting: "Setting", given: Mapping[str, Any]) -> None:
    """Raises a SettingError if `given` changes the setting's optimizer, but not its learning rate."""
    optimizer = given.get("optimizer", setting.optimizer)
    if optimizer != setting.optimizer and "lr" not in given:
        raise SettingError(
            f"optimizer is {optimizer}, but the learning rate, {setting.lr:g}, was chosen for {setting.optimizer}: "
            "give lr, too, such as lr=0.001"
        )


def _check_ranks(setting: "Setting") -> None:
    if setting.batch_size % setting.ranks:
        raise SettingError(
            f"ranks is {setting.ranks}, which does not divide the batch of {setting.batch_size} images; expected a "
            f"divisor, such as {math.gcd(setting.ranks, setting.batch_size)}"
        )
    if setting.ranks > setting.evaluated_count:
        raise SettingError(f"ranks is {setting.ranks}, more than the {setting.evaluated_count} images to evaluate on")
    for name, off in (("sync_batch_norm", False), ("sent_gradients", "all")):
        if setting.ranks == 1 and getattr(setting, name) != off:
            raise SettingError(f"{name} is {getattr(setting, name)}, which one process alone ignores; give ranks, too")


def _check_schedule(setting: "Setting") -> None:
    ascending = list(setting.milestones) == sorted(set(setting.milestones))
    if setting.schedule == "step" and not (ascending and all(0 < m < setting.steps for m in setting.milestones)):
        raise SettingError(
            f"milestones {list(setting.milestones)} are not increasing steps within a training of {setting.steps}; "
            "give others, such as milestones=" + f"{setting.steps // 2},{setting.steps * 3 // 4}"
        )
    if setting.last_lr and setting.schedule != "linear":
        raise SettingError(
            f"last_lr is {setting.last_lr:g}, which schedule={setting.schedule} ignores; give schedule=linear"
        )
    if setting.last_lr > setting.lr:
        raise SettingError(f"last_lr is {setting.last_lr:g}; expected at most lr, {setting.lr:g}")
    if setting.warmup_steps >= setting.steps:
        raise SettingError(f"warmup_steps is {setting.warmup_steps}; expected less than the {setting.steps} steps")


def check_room(setting: "Setting", values: Mapping[str, Any]) -> None:
    """Raises a SettingError if one of `values`, by name, is a step, level or count that the setting does not have:
    `Setting.checked` would drop it without a word."""
    known = setting.values()
    for name, given in values.items():
        rule = known[name][2] if name in known else Rule("")
        for number in given if isinstance(given, tuple | list) else (given,):
            if not all(isinstance(item, numbers.Real) for item in (number, setting.steps, setting.levels)):
                continue  # `typed` says what is wrong
            if name == "control_rewind_step" and number not in setting.rewind_steps:
                raise SettingError(f"{name} is {number}; expected one of rewind_steps, {list(setting.rewind_steps)}")
            if rule.at_most and number > (most := getattr(setting, rule.at_most)):
                raise SettingError(f"{name} is {number:,}; expected at most {rule.at_most}, {most:,}")
            if name in setting.__dataclass_fields__ and name != "control_levels":
                continue
            if rule.step and number >= setting.steps:
                raise SettingError(f"{name}: step {number} is at or past the end of training ({setting.steps} steps)")
            if rule.levels_above is not None and number + rule.levels_above > setting.levels:
                raise SettingError(
                    f"{name}: level {number} of a setting of {setting.levels} levels; expected "
                    f"{setting.levels - rule.levels_above} at most"
                )


def _check_fused(setting: "Setting") -> None:
    if setting.sync_batch_norm:
        raise SettingError("fused_norm and sync_batch_norm are both true; expected one: each rank fuses its own norms")
    from sparselt.training.fused_norm import fused_forward

    try:
        fused_forward(outline(setting.model, setting.classes, setting.channels))
    except SettingError as error:
        raise SettingError(f"{error}; set fused_norm=false") from error


def _check_winograd(setting: "Setting") -> None:
    from sparselt.models.winograd import winograd_

    if not winograd_(outline(setting.model, setting.classes, setting.channels)):
        raise SettingError(
            f"winograd is true, but {setting.model} has no 3×3 convolution of stride 1 with multiples of 16 channels; "
            "give winograd=false"
        )


def winograd_would_pay(setting: "Setting") -> bool:
    """Whether `winograd=true` would spare a run on a CPU much time. Reads shapes only."""
    if setting.winograd or setting.precision != "float32" or setting.recipe.sparse_up_to >= 0.5:
        return False
    shapes = prunable_shapes(setting.model, setting.classes, setting.channels).values()
    fitting = [shape for shape in shapes if tuple(shape[2:]) == (3, 3) and not shape[0] % 16 and not shape[1] % 16]
    return setting.train_size >= 16 and 2 * len(fitting) >= len(shapes)


def check_sparse(setting: "Setting", given: Mapping[str, Any]) -> None:
    """Raises a SettingError if `sparse_up_to` is among `given`, and the setting cannot train so.

    A setting's own `sparse_up_to` counts where its trainings can follow it.
    """
    if given.get("sparse_up_to") and (against := setting.reason_against_sparse_up_to):
        raise SettingError(f"sparse_up_to is {setting.sparse_up_to:g}, but {against}; leave it out")


def check_square(source: Source) -> None:
    """Raises a SettingError unless a source has images of one square shape, which can be kept in memory."""
    shape = source.image_shape
    if isinstance(shape, str) or shape[1] != shape[2]:
        raise SettingError(
            f"{type(source).__name__}: image_shape is {shape!r}; expected (channels, side, side) for a setting whose "
            "engine is resident"
        )


def check_rewind_step(step: int, steps: int) -> None:
    """Raises a SettingError unless `step` lies within a training of `steps`."""
    if not isinstance(step, numbers.Integral) or step < 0:
        raise SettingError(f"rewind step {step!r} is no step of a training; expected a whole number from 0")
    if step >= steps:
        raise SettingError(f"rewind step {step} is at or past the end of training ({steps} steps); expected less")


def steps_and_levels_removed(before: Mapping[str, tuple], after: Mapping[str, tuple]) -> list[str]:
    """The steps and levels that one setting has more than another, such as `stability_levels 8`."""
    gone = {
        name: [item for item in found if item not in after[name][0]]
        for name, (found, *_) in before.items()
        if isinstance(found, tuple)
    }
    return [f"{name} {', '.join(map(str, items))}" for name, items in gone.items() if items]
