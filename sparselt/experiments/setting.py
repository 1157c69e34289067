"""A setting: all numbers of a protocol, as one frozen value."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

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
from sparselt.experiments.protocol import ProtocolValues
from sparselt.experiments.values import Rule, assigned, nearest_value, parse, rules, typed
from sparselt.scopes import Scope

Kind = TypeVar("Kind", bound=Options)


def of_other_criterion(title: str) -> str:
    """The title of a setting that prunes by magnitude, without this word."""
    return title.replace("magnitude pruning", "pruning")


@dataclass(frozen=True, kw_only=True)
class Setting(ProtocolValues):
    """The protocol of a run. A module of `reproduce/` fills it, with the source of each number in `sources`.

    Its own values (`ProtocolValues`) and those of `options` can be set by name.

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
        given: the names of values that the user gave, other than the setting's own at this scale.
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
    given: tuple[str, ...] = ()

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
        if changed.title != self.title:
            return changed
        if changed.criterion != self.criterion:
            changed = dataclasses.replace(changed, title=of_other_criterion(changed.title))
        for name in ("model", "criterion"):
            if getattr(changed, name) != getattr(self, name):
                changed = changed.retitled(f"{name}={getattr(changed, name)}")
        return changed

    def noting_given(self, own: Self) -> Self:
        """The setting with the names of values that the user has given in `given`: those that differ from `own`."""
        before = own.values()
        given = (name for name, (value, *_) in self.values().items() if name in before and value != before[name][0])
        return dataclasses.replace(self, given=tuple(name for name in given if name not in ("seed", "replicates")))

    def retitled(self, change: str) -> Self:
        """The setting with a change, such as `model=resnet20`, named in its title, behind changes named before."""
        title, before, changes = self.title.removesuffix(")").rpartition(" (changed: ")
        text = f"{title}{before}{changes}, {change})" if before else f"{self.title} (changed: {change})"
        return dataclasses.replace(self, title=text)

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
